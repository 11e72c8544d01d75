#!/bin/sh
# How an activation and its rollback stand: progress.sh NONCE. KEY=VALUE lines, then an empty line, then the log.
set -u
state=/run/smallkube/$1
echo "begun=$(if [ -d "$state" ]; then echo yes; else echo no; fi)"
echo "status=$(cat "$state/status" 2>/dev/null)"
echo "outcome=$(readlink "$state/decision" 2>/dev/null)"
echo "rollback=$(cat "$state/rollback.status" 2>/dev/null)"
echo "system=$(readlink -f /run/current-system)"
echo "failed=$(systemctl list-units --state=failed --plain --no-legend 2>/dev/null | awk '{ print $1 }' | tr '\n' ' ')"
echo
tail -c 20000 "$state/log" 2>/dev/null
true
