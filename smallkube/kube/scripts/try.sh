#!/bin/sh
# Tries tokens at the API server, on the primary: standard input has lines NAME TOKEN, standard output NAME accepted|refused|unknown.
set -eu
umask 077
folder=$(mktemp -d /run/smallkube-try.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 143' TERM INT HUP PIPE
while read -r name token; do
  printf '%s\n' "$token" >"$folder/token"
  KUBECONFIG=$folder/kubeconfig mkkubeconfig "$folder/token"
  if kubectl --kubeconfig "$folder/kubeconfig" --request-timeout=10s get --raw /api >"$folder/said" 2>&1 </dev/null; then
    echo "$name accepted"
  elif grep -q Unauthorized "$folder/said"; then
    echo "$name refused"
  else
    echo "$name unknown"
    tail -n 1 "$folder/said" >&2
  fi
done
