#!/bin/sh
# Counts how values are stored in etcd: stored.sh ENDPOINT PATH...
# PATH is what comes between /registry/ and the objects' names. Prints lines COUNT NAME_OF_THE_KEY, or "clear" in place of
# the name. The values themselves stay here.
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
  seen=0
  while :; do
    timeout --foreground 60 etcdctl --endpoints "$endpoint" --command-timeout 50s \
      get "$last" "/registry/${path}0" --limit 500 --write-out json >"$folder/page"
    grep -o '"value":"[^"]\{0,108\}' "$folder/page" | sed "s/^\"value\":\"//" | tail -n "+$((seen + 1))" >"$folder/values" || :
    while read -r value; do
      case $(printf %s "$value" | cut -c 1-108 | base64 -d 2>/dev/null | tr -d '\0\n') in
        k8s:enc:secretbox:v1:*) printf %s "$value" | base64 -d 2>/dev/null | cut -d : -f 5 | head -n 1 ;;
        *) echo clear ;;
      esac
    done <"$folder/values" >>"$folder/found"
    grep -q '"more":true' "$folder/page" || break
    last=$(grep -o '"key":"[^"]*"' "$folder/page" | tail -n 1 | cut -d '"' -f 4 | base64 -d)
    seen=1
  done
done
sort "$folder/found" | uniq -c
