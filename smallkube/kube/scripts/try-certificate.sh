#!/bin/sh
# Tries a client certificate at the API server, on the primary: try-certificate.sh URL
# Standard input: the certificate and its key in PEM. Prints accepted, refused or unknown.
set -eu
umask 077
# /run is in memory.
file=$(mktemp /run/smallkube-try.XXXXXX)
trap 'rm -f "$file"' EXIT
trap 'exit 143' TERM INT HUP PIPE
cat >"$file"
status=$(curl --silent --insecure --max-time 10 --cert "$file" --output /dev/null --write-out '%{http_code}' "$1/api") || true
case $status in
  200 | 403) echo accepted ;;
  401) echo refused ;;
  *) echo unknown ;;
esac
