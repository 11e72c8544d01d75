#!/bin/sh
# Locks the inputs of a bundle that its nix/flake.lock lacks, and prints that file: lock-flake.sh BUNDLE_DIGEST.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in flake.nix flake.lock; do
  file=/var/lib/smallkube/bundles/$1/nix/$file
  if [ -e "$file" ]; then cp "$file" "$work"; fi
done
nix --extra-experimental-features 'nix-command flakes' flake lock "path:$work" >&2
cat "$work/flake.lock"
