#!/bin/sh
# Runs a command and ends it when standard input ends: cancel-on-disconnect.sh PROGRAM ARGUMENT...
exec 3<&0
setsid "$@" 3<&- </dev/null &
work=$!
{
  cat >/dev/null
  # Repeated: a program that is just being started loses the signal.
  while kill -s TERM -- "-$work" || kill -0 "$work"; do sleep 0.1; done
} <&3 >/dev/null 2>&1 &
watch=$!
trap 'kill "$watch" 2>/dev/null || :' EXIT
wait "$work"
