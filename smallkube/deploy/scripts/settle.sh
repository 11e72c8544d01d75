#!/bin/sh
# Has armed rollbacks that nobody will confirm any more happen now, and waits for their end: settle.sh UNIT...
set -u
for unit in "$@"; do
  systemctl start --wait "${unit%.*}.service"
  systemctl stop "${unit%.*}.timer"
done 2>/dev/null
true
