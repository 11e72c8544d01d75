#!/bin/sh
# Which kernel runs, and of which version the programs of these services are that run: running.sh UNIT...
# Prints JSON: {"kernel": "6.12.1", "versions": {"UNIT": "v1.34.2", "UNIT that does not run": ""}}. Changes nothing.
set -u
printf '{"kernel": "%s", "versions": {' "$(uname -r)"
comma=""
for unit in "$@"; do
  pid=$(systemctl show --property=MainPID --value "$unit.service" 2>/dev/null)
  found=""
  # What runs may be older than what lies at its path by now.
  if [ "${pid:-0}" -gt 0 ]; then found=$(timeout 10 "/proc/$pid/exe" --version 2>/dev/null </dev/null | head -n 1); fi
  printf '%s"%s": "%s"' "$comma" "$unit" "$(printf %s "${found#Kubernetes }" | tr -cd 'A-Za-z0-9.+_-')"
  comma=,
done
echo '}}'
