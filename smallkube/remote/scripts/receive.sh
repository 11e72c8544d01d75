#!/bin/sh
# Unpacks the tar on standard input as a whole or not at all: receive.sh bundles|scripts DIGEST SHA256_OF_THE_TAR.
# The five newest of each kind are kept.
set -eu
folder=/var/lib/smallkube/$1
final=$folder/$2
umask 077
mkdir -p "$folder"
[ ! -d "$final" ] || exit 0
find "$folder" -maxdepth 1 -name '.new.*' -mmin +60 -exec rm -rf {} +
new=$(mktemp -d "$folder/.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
cat >"$new/archive"
echo "$3  $new/archive" | sha256sum --check --status || {
  echo "what arrived is not what was sent" >&2
  exit 1
}
mkdir "$new/tree"
tar -xf "$new/archive" -C "$new/tree"
sync -f "$new/tree"
mv -T "$new/tree" "$final" || [ -d "$final" ]
# shellcheck disable=SC2012 # names are digests
ls -dt "$folder"/*/ | tail -n +6 | while read -r old; do rm -rf "$old"; done
