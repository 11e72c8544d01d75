#!/bin/sh
# Precedes every script of a deploy: the lock that a deploy holds on a machine.
lock=/run/smallkube/lock

with_guard() {
  mkdir -p /run/smallkube
  exec 9>/run/smallkube/lock.guard
  flock 9
}

# HOLDER names the workspace, which lets only one process at a time deploy to a machine: its own previous lock is that of
# a process that was killed, and is taken over at once; another one's, when it was not refreshed for 15 minutes.
lock() { # OWNER NONCE HOLDER
  with_guard
  if [ -d "$lock" ]; then
    owner=$(cat "$lock/owner" 2>/dev/null || echo unknown)
    if [ "$(cat "$lock/holder" 2>/dev/null)" != "$3" ] && [ -z "$(find "$lock" -maxdepth 0 -mmin +15)" ]; then
      echo "locked by $owner" >&2
      exit 75
    fi
    echo "took over the lock of $owner" >&2
    rm -rf "$lock"
  fi
  mkdir "$lock"
  echo "$1 since $(date -u +%H:%M:%S) UTC" >"$lock/owner"
  echo "$2" >"$lock/nonce"
  echo "$3" >"$lock/holder"
}
refresh() { # NONCE
  with_guard
  if [ "$(cat "$lock/nonce" 2>/dev/null)" = "$1" ]; then touch "$lock"; fi
}
unlock() { # NONCE
  with_guard
  if [ "$(cat "$lock/nonce" 2>/dev/null)" = "$1" ]; then rm -rf "$lock"; fi
}
