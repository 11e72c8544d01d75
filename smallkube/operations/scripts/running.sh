#!/bin/sh
# Which kernel runs, of which version the programs of these services are that run, and what services use:
#   running.sh UNIT_WITH_VERSION... -- UNIT...
# Prints JSON: {"kernel": "6.12.1", "versions": {"UNIT": "v1.34.2", "UNIT that does not run": ""}, "uses": {"UNIT that
# runs": {"memory": KIB, "anonymous": KIB, "processor": HUNDREDTHS, "age": HUNDREDTHS}}}. Changes nothing.
set -u

# Of the main process, as proc(5) has it, whatever version the control groups are of: resident memory, time of the
# processor, and time since it started. Nothing when it has ended.
use() { # PID
  [ -r "/proc/$1/status" ] && read -r line <"/proc/$1/stat" || return
  memory="" anonymous=""
  while read -r name value _; do
    case $name in VmRSS:) memory=$value ;; RssAnon:) anonymous=$value ;; esac
  done <"/proc/$1/status"
  # After its name, which may have blanks, come the fields from the third on: utime, stime and starttime are 14, 15 and 22.
  # shellcheck disable=SC2086 # one word per number
  set -- ${line##*) }
  [ "$anonymous" ] && [ $# -gt 19 ] || return
  read -r up _ </proc/uptime
  age=$((${up%.*} * 100 + 1${up#*.} - 100 - ${20}))
  [ "$age" -ge 0 ] || age=0
  echo "{\"memory\": $memory, \"anonymous\": $anonymous, \"processor\": $((${12} + ${13})), \"age\": $age}"
}

names=""
for word; do [ "$word" = -- ] || names="$names $word.service"; done
# One question for all of them: a line each, and empty ones between.
# shellcheck disable=SC2086 # one word per unit
systemctl show --property=MainPID --value $names 2>/dev/null | grep . | {
  printf '{"kernel": "%s", "versions": {' "$(uname -r)"
  comma=""
  while [ "${1:---}" != -- ]; do
    read -r pid || pid=0
    found=""
    # What runs may be older than what lies at its path by now.
    if [ "$pid" -gt 0 ]; then found=$(timeout 10 "/proc/$pid/exe" --version 2>/dev/null </dev/null | head -n 1); fi
    printf '%s"%s": "%s"' "$comma" "$1" "$(printf %s "${found#Kubernetes }" | tr -cd 'A-Za-z0-9.+_-')"
    comma=,
    shift
  done
  [ $# -eq 0 ] || shift
  printf '}, "uses": {'
  comma=""
  for unit; do
    read -r pid || pid=0
    found=""
    if [ "$pid" -gt 0 ]; then found=$(use "$pid" 2>/dev/null); fi
    [ "$found" ] || continue
    printf '%s"%s": %s' "$comma" "$unit" "$found"
    comma=,
  done
  echo '}}'
}
