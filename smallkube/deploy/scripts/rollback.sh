#!/bin/sh
# Goes back to the system OLD, unless the new one was accepted first: rollback.sh NONCE OLD.
# The folder "decision" is made by whoever decides; only one can.
set -u
state=/run/smallkube/$1
mkdir -p "$state"
mkdir "$state/decision" 2>/dev/null || exit 0
echo "rolled back" >"$state/outcome"
systemctl stop "smallkube-activate-$1.service" 2>/dev/null
if [ -x "$2/bin/switch-to-configuration" ]; then
  NIXOS_NO_CHECK=1 "$2/bin/switch-to-configuration" test >"$state/rollback.log" 2>&1
  echo "$?" >"$state/rollback.status"
else
  echo "there was no system to go back to" >"$state/rollback.log"
  echo 1 >"$state/rollback.status"
fi
