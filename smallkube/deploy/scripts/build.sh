#!/bin/sh
# Builds this machine's system from a bundle and prints its store path: build.sh BUNDLE_DIGEST NODE.
# The build ends when standard input does: then no deploy waits for it any more.
# The link "result" keeps it from being garbage collected until the next build.
set -eu
work=/var/lib/smallkube/build
mkdir -p "$work"
cd "$work"
exec 3<&0 9>lock
flock 9
setsid nixos-rebuild build --flake "path:/var/lib/smallkube/bundles/$1?dir=nix#$2" >&2 3<&- 9>&- </dev/null &
build=$!
{
  cat >/dev/null
  # Repeatedly: a program that is just being started misses the signal.
  while kill -s TERM -- "-$build" || kill -0 "$build"; do sleep 0.1; done
} <&3 >/dev/null 2>&1 9>&- &
watch=$!
keep_lock_alive
# shellcheck disable=SC2154 # set by keep_lock_alive
trap 'kill "$watch" "$keeper" 2>/dev/null' EXIT
wait "$build"
readlink -f result
