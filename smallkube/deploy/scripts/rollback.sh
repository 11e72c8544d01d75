#!/bin/sh
# Goes back to the system OLD, unless the new one was accepted first: rollback.sh NONCE OLD.
# The link "decision" is made by whoever decides, at once with what was decided; only one can.
set -u
state=/run/smallkube/$1
mkdir -p "$state"
ln -sT "rolled back" "$state/decision" 2>/dev/null || exit 0
systemctl stop "smallkube-activate-$1.service" 2>/dev/null
if [ -x "$2/bin/switch-to-configuration" ]; then
  NIXOS_NO_CHECK=1 "$2/bin/switch-to-configuration" test >"$state/rollback.log" 2>&1
  status=$?
else
  echo "there was no system to go back to" >"$state/rollback.log"
  status=1
fi
echo "$status" >"$state/rollback.status.new"
mv "$state/rollback.status.new" "$state/rollback.status"
systemctl stop "smallkube-rollback-$1.timer" 2>/dev/null
true
