#!/bin/sh
# Rolls back to the system PREVIOUS, unless the new one was confirmed first: rollback.sh NONCE PREVIOUS. Run by a timer.
# The link "decision" is created together with its content, so that only one side can decide.
set -u
state=/run/smallkube/$1
mkdir -p "$state"
if ! ln -sT "rolled back" "$state/decision" 2>/dev/null && [ -L "$state/decision" ]; then exit 0; fi
systemctl stop "smallkube-activate-$1.service" 2>/dev/null
if [ -x "$2/bin/switch-to-configuration" ]; then
  NIXOS_NO_CHECK=1 "$2/bin/switch-to-configuration" test >"$state/rollback.log" 2>&1
  status=$?
else
  echo "there is no previous system" >"$state/rollback.log"
  status=1
fi
echo "$status" | write "$state/rollback.status"
systemctl stop "smallkube-rollback-$1.timer" 2>/dev/null
true
