#!/bin/sh
# Runs a command that is ended when standard input does, because nobody waits for it then: hold.sh PROGRAM ARGUMENT...
set -eu
# Also where cron or an empty environment began it: NixOS has its programs in the first of these.
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
exec 3<&0
setsid "$@" 3<&- </dev/null &
work=$!
{
  cat >/dev/null
  # Again and again: of a program that is just being started, the signal is lost.
  while kill -s TERM -- "-$work" || kill -0 "$work"; do sleep 0.1; done
} <&3 >/dev/null 2>&1 &
watch=$!
trap 'kill "$watch" 2>/dev/null || :' EXIT
wait "$work"
