#!/bin/sh
# Writes every object of some kinds again, so that the API server encrypts each with its first key:
#   rewrite.sh KUBECONFIG RESOURCE...
# Page after page, an object at a time: one that was changed meanwhile is read again, a deleted one is skipped.
# Prints how many there were.
set -eu
umask 077
export KUBECONFIG="$1"
shift
folder=$(mktemp -d /run/smallkube-rewrite.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 143' TERM INT HUP PIPE
count=0
for resource; do
  kubectl get "$resource" --all-namespaces --chunk-size=200 --request-timeout=60s \
    --output='jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.namespace}{"\n"}{end}' >"$folder/names"
  while read -r name namespace; do
    tries=0
    until
      kubectl get "$resource" "$name" ${namespace:+--namespace "$namespace"} --ignore-not-found --request-timeout=30s \
        --output=json >"$folder/object" </dev/null &&
        { [ ! -s "$folder/object" ] || kubectl replace --request-timeout=30s --filename="$folder/object" \
          >/dev/null 2>"$folder/error" </dev/null || grep -q NotFound "$folder/error"; }
    do
      tries=$((tries + 1))
      if [ "$tries" -ge 5 ]; then
        echo "$resource $namespace/$name: $(tail -n 1 "$folder/error")" >&2
        exit 1
      fi
      sleep 1
    done
    count=$((count + 1))
  done <"$folder/names"
done
echo "$count"
