#!/bin/sh
# Takes a closure that was built elsewhere, `nix-store --export` on standard input, into the store: import.sh SYSTEM.
# Each path becomes valid as a whole or not at all; root may import what nobody has signed.
# The link "result" keeps it from being garbage collected until the next build, as after build.sh.
set -eu
work=/var/lib/smallkube/build
mkdir -p "$work"
cd "$work"
exec 9>lock
flock 9
while kill -0 $$ && touch -c /run/smallkube/lock; do sleep 60; done </dev/null >/dev/null 2>&1 9>&- &
refresh=$!
trap 'kill "$refresh" 2>/dev/null' EXIT
nix-store --import >/dev/null 9>&-
nix-store --check-validity "$1"
nix-store --realise "$1" --add-root "$work/result" >/dev/null
