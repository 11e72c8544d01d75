#!/bin/sh
# Lists service accounts' tokens that were signed with a certain key, by its id (the "kid" in a token's head):
#   signed.sh pods KID               those that the kubelet keeps for pods on this machine: their files
#   signed.sh secrets KID KUBECONFIG those that Secrets hold, on the primary: NAMESPACE/NAME
# The tokens themselves stay here.
set -eu

# is_from KID TOKEN
is_from() {
  head=$(printf %s "${2%%.*}" | tr '_-' '/+')
  while [ $((${#head} % 4)) -ne 0 ]; do head=$head=; done
  printf %s "$head" | base64 -d 2>/dev/null | grep -q "\"kid\":\"$1\""
}

case $1 in
  pods)
    for file in /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*/*; do
      # Of files that are no tokens only the beginning is read.
      token=$(head -c 2000 "$file" 2>/dev/null | tr -d '\0\n') || continue
      case $token in eyJ*.*.*) if is_from "$2" "$token"; then echo "$file"; fi ;; esac
    done
    ;;
  secrets)
    kubectl --kubeconfig "$3" --request-timeout=60s get secrets --all-namespaces \
      --field-selector=type=kubernetes.io/service-account-token \
      --output='go-template={{range .items}}{{.metadata.namespace}}/{{.metadata.name}} {{with .data}}{{with .token}}{{base64decode .}}{{end}}{{end}}{{"\n"}}{{end}}' |
      while read -r name token; do
        if is_from "$2" "$token"; then echo "$name"; fi
      done
    ;;
esac
