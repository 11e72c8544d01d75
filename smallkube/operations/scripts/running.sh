#!/bin/sh
# Which kernel runs, and of which version the programs of these services are that run: running.sh UNIT...
# Prints KEY=VALUE lines. Changes nothing.
set -u
echo "kernel=$(uname -r)"
for unit in "$@"; do
  pid=$(systemctl show --property=MainPID --value "$unit.service" 2>/dev/null)
  said=""
  # What runs may be older than what lies at its path by now.
  if [ "${pid:-0}" -gt 0 ]; then said=$(timeout 10 "/proc/$pid/exe" --version 2>/dev/null </dev/null | head -n 1); fi
  echo "$unit=${said#Kubernetes }"
done
