#!/bin/sh
# Accepts the new system for good, if the rollback was not quicker: decide.sh NONCE.
# The link "decision" is made by whoever decides, at once with what was decided; only one can.
set -eu
state=/run/smallkube/$1
[ -d "$state" ] || {
  echo "too late: the machine was restarted meanwhile" >&2
  exit 3
}
ln -sT confirmed "$state/decision" 2>/dev/null || {
  echo "too late: the machine went back already" >&2
  exit 3
}
systemctl stop "smallkube-rollback-$1.timer" 2>/dev/null || true
rm -f /nix/var/nix/gcroots/smallkube-rollback
