#!/bin/sh
# Builds this machine's system from a bundle and prints its store path: build.sh BUNDLE_DIGEST NODE.
# The link "result" keeps it from being garbage collected until the next build.
set -eu
work=/var/lib/smallkube/build
mkdir -p "$work"
cd "$work"
while [ -d /run/smallkube/lock ] && touch /run/smallkube/lock; do sleep 60; done >/dev/null 2>&1 &
refresh=$!
trap 'kill "$refresh" 2>/dev/null' EXIT
nixos-rebuild build --flake "path:/var/lib/smallkube/bundles/$1?dir=nix#$2" >&2
readlink -f result
