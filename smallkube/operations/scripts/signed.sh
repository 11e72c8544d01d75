#!/bin/sh
# Prints, as JSON, the first parts of service accounts' tokens, which name the key that signed each:
#   signed.sh pods      a list: those that the kubelet keeps for pods on this machine
#   signed.sh secrets   an object, by NAMESPACE/NAME: those that Secrets hold, on the primary
# The tokens themselves stay here.
set -eu
comma=""
case $1 in
  pods)
    printf '['
    for file in /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*/*; do
      # Of files that are no tokens only the beginning is read.
      token=$(head -c 2000 "$file" 2>/dev/null | tr -d '\0\n') || continue
      case $token in
        *[!A-Za-z0-9._-]*) ;;
        eyJ*.*.*) printf '%s"%s"' "$comma" "${token%%.*}" && comma=, ;;
      esac
    done
    echo ']'
    ;;
  secrets)
    printf '{'
    kubectl --kubeconfig /run/kubeconfig-root --request-timeout=60s get secrets --all-namespaces \
      --field-selector=type=kubernetes.io/service-account-token \
      --output='go-template={{range .items}}{{.metadata.namespace}}/{{.metadata.name}} {{with .data}}{{with .token}}{{base64decode .}}{{end}}{{end}}{{"\n"}}{{end}}' |
      while read -r name token; do
        printf '%s"%s": "%s"' "$comma" "$name" "${token%%.*}"
        comma=,
      done
    echo '}'
    ;;
esac
