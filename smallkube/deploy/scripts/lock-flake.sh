#!/bin/sh
# Locks the inputs of a bundle without nix/flake.lock, and prints that file: lock-flake.sh BUNDLE_DIGEST.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "/var/lib/smallkube/bundles/$1/nix/flake.nix" "$work"
nix --extra-experimental-features 'nix-command flakes' flake lock "path:$work" >&2
cat "$work/flake.lock"
