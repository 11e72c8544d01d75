#!/bin/sh
# Rolls back from the system NEW to PREVIOUS, unless NEW was confirmed first: rollback.sh NONCE PREVIOUS NEW. Run by a
# timer. If that can't be done, it reboots, unless NEW is what boots next: then it records that it failed.
# The link "decision" is created together with its content, so that only one side can decide.
set -u
state=/run/smallkube/$1
profile=/nix/var/nix/profiles/system
tries=5
mkdir -p "$state"
if ! ln -sT "rolled back" "$state/decision" 2>/dev/null && [ -L "$state/decision" ]; then exit 0; fi
rm -f "$state/hold" "$state/held"
systemctl stop "smallkube-activate-$1.service" 2>/dev/null

status=1
while [ "$tries" -gt 0 ] && [ -x "$2/bin/switch-to-configuration" ]; do
  NIXOS_NO_CHECK=1 timeout --kill-after=10 300 "$2/bin/switch-to-configuration" test
  status=$?
  tries=$((tries - 1))
  # 4: it has switched, and units failed. 124: it hung, and would again.
  case $status in 0 | 4 | 124) break ;; esac
  [ "$tries" -eq 0 ] || sleep 10
done
case $status in
0 | 4) ;;
*)
  echo "the rollback to $2 failed (status $status)"
  if [ "$(readlink -f "$profile")" != "$3" ] && systemctl reboot; then exit 0; fi
  ;;
esac
echo "$status" | write "$state/rollback.status"
systemctl stop "smallkube-rollback-$1.timer" 2>/dev/null
true
