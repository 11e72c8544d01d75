#!/bin/sh
# One deploy at a time on this machine: lock.sh take OWNER NONCE | lock.sh drop NONCE.
# A lock that its holder has not refreshed for a quarter of an hour is taken over.
set -eu
lock=/run/smallkube/lock
mkdir -p /run/smallkube

case $1 in
take)
  if ! mkdir "$lock" 2>/dev/null; then
    [ -n "$(find "$lock" -maxdepth 0 -mmin +15)" ] || {
      echo "locked by $(cat "$lock/owner" 2>/dev/null || echo someone)" >&2
      exit 75
    }
    echo "took over the lock of $(cat "$lock/owner" 2>/dev/null || echo someone)" >&2
  fi
  echo "$2 since $(date -u +%H:%M:%S) UTC" >"$lock/owner"
  echo "$3" >"$lock/nonce"
  touch "$lock"
  ;;
drop)
  if [ "$(cat "$lock/nonce" 2>/dev/null)" = "$2" ]; then rm -rf "$lock"; fi
  ;;
esac
