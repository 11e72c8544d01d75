#!/bin/sh
# Which kernel runs, of which version the programs of these services are that run, and what services use:
#   running.sh UNIT_WITH_VERSION... -- UNIT...
# Prints JSON: {"kernel": "6.12.1", "versions": {"UNIT": "v1.34.2", "UNIT that does not run": ""}, "uses": {"UNIT that
# runs": {"memory": KIB, "anonymous": KIB, "processor": HUNDREDTHS, "age": HUNDREDTHS}}}. Changes nothing.
set -u
main_pid() { systemctl show --property=MainPID --value "$1.service" 2>/dev/null; }

# Of the main process, as proc(5) has it, whatever version the control groups are of: resident memory, time of the
# processor, and time since it started.
use() { # PID
  sizes=$(awk '/^(VmRSS|RssAnon):/ { print $2 }' "/proc/$1/status")
  # After its name, which may have blanks, come the fields from the third on: utime, stime and starttime are 14, 15 and 22.
  # shellcheck disable=SC2046,SC2086 # one word per number
  set -- $sizes $(sed 's/.*) //' "/proc/$1/stat")
  [ $# -gt 21 ] || return
  age=$(($(cut -d ' ' -f 1 /proc/uptime | tr -d .) - ${22}))
  [ "$age" -ge 0 ] || age=0
  echo "{\"memory\": $1, \"anonymous\": $2, \"processor\": $((${14} + ${15})), \"age\": $age}"
}

printf '{"kernel": "%s", "versions": {' "$(uname -r)"
comma=""
while [ "${1:---}" != "--" ]; do
  pid=$(main_pid "$1")
  found=""
  # What runs may be older than what lies at its path by now.
  if [ "${pid:-0}" -gt 0 ]; then found=$(timeout 10 "/proc/$pid/exe" --version 2>/dev/null </dev/null | head -n 1); fi
  printf '%s"%s": "%s"' "$comma" "$1" "$(printf %s "${found#Kubernetes }" | tr -cd 'A-Za-z0-9.+_-')"
  comma=,
  shift
done
[ $# -eq 0 ] || shift
printf '}, "uses": {'
comma=""
for unit in "$@"; do
  pid=$(main_pid "$unit")
  found=""
  if [ "${pid:-0}" -gt 0 ]; then found=$(use "$pid" 2>/dev/null); fi
  [ "$found" ] || continue
  printf '%s"%s": %s' "$comma" "$unit" "$found"
  comma=,
done
echo '}}'
