#!/bin/sh
# Imports a closure that was built elsewhere (`nix-store --export` on standard input): import.sh SYSTEM.
# Each path becomes valid as a whole or not at all; root may import unsigned paths.
# The link "result" keeps it from being garbage collected until the next build, as after build.sh.
set -eu
work=/var/lib/smallkube/build
mkdir -p "$work"
cd "$work"
exec 9>lock
flock 9
keep_lock_alive
# shellcheck disable=SC2154 # set by keep_lock_alive
trap 'kill "$keeper" 2>/dev/null' EXIT
nix-store --import >/dev/null 9>&-
nix-store --check-validity "$1"
nix-store --realise "$1" --add-root "$work/result" >/dev/null
