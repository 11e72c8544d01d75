#!/bin/sh
# One deploy at a time on this machine: lock.sh take OWNER NONCE HOLDER | lock.sh drop NONCE.
# HOLDER names the workspace, which lets only one process at a time deploy to a machine: its own earlier lock is that of
# a process that was killed, and is taken over at once. Anybody else's is when it was not refreshed for a quarter hour.
set -eu
lock=/run/smallkube/lock
mkdir -p /run/smallkube
exec 9>/run/smallkube/lock.guard
flock 9

case $1 in
take)
  if [ -d "$lock" ]; then
    owner=$(cat "$lock/owner" 2>/dev/null || echo someone)
    if [ "$(cat "$lock/holder" 2>/dev/null)" != "$4" ] && [ -z "$(find "$lock" -maxdepth 0 -mmin +15)" ]; then
      echo "locked by $owner" >&2
      exit 75
    fi
    echo "took over the lock of $owner" >&2
    rm -rf "$lock"
  fi
  mkdir "$lock"
  echo "$2 since $(date -u +%H:%M:%S) UTC" >"$lock/owner"
  echo "$3" >"$lock/nonce"
  echo "$4" >"$lock/holder"
  ;;
drop)
  if [ "$(cat "$lock/nonce" 2>/dev/null)" = "$2" ]; then rm -rf "$lock"; fi
  ;;
esac
