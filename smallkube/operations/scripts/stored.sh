#!/bin/sh
# Counts how values are stored in etcd: stored.sh ENDPOINT PATH...
# PATH is what comes between /registry/ and the objects' names. Prints JSON, an object: the name of the key that encrypts
# (secretbox), or "clear", → how many. The values themselves stay here.
set -eu
export LC_ALL=C
endpoint=$1
shift
umask 077
folder=$(mktemp -d /run/smallkube-stored.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 143' TERM INT HUP PIPE
: >"$folder/found"
for path; do
  last=/registry/$path/
  first=1
  while :; do
    # One line per field, strings quoted as in Go: "Key" : "…", "Value" : "…", "More" : true
    timeout --foreground 60 etcdctl --endpoints "$endpoint" --command-timeout 50s \
      get "$last" "/registry/${path}0" --limit 500 --write-out fields >"$folder/page"
    sed -n 's/^"Value" : "k8s:enc:secretbox:v1:\([A-Za-z0-9._-]*\):.*/\1/p; t; s/^"Value" : .*/clear/p' "$folder/page" |
      tail -n "+$first" >>"$folder/found"
    grep -q '^"More" : true' "$folder/page" || break
    last=$(sed -n 's/^"Key" : "\(.*\)"$/\1/p' "$folder/page" | tail -n 1)
    first=2 # that key comes again
  done
done
printf '{'
sort "$folder/found" | uniq -c | while read -r count name; do
  printf '%s"%s": %s' "${comma-}" "$name" "$count"
  comma=,
done
echo '}'
