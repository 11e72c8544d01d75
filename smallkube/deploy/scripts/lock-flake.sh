#!/bin/sh
# Pins the inputs of a bundle that came without nix/flake.lock, and prints that file: lock-flake.sh BUNDLE_DIGEST.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "/var/lib/smallkube/bundles/$1/." "$work"
nix --extra-experimental-features 'nix-command flakes' flake lock "path:$work?dir=nix" >&2
cat "$work/nix/flake.lock"
