#!/bin/sh
# How far a restore is: restore-progress.sh RUN, as restore.sh reported it. Output: JSON {steps, running, outcome}.
# Neither running nor an outcome: it was interrupted, as by a restart of the machine.
state=/run/smallkube/etcd-restore/$1
running=false steps='[]' outcome='[]'
# First, because what ends in between has written its outcome by then.
if systemctl --quiet is-active smallkube-etcd-restore.service; then running=true; fi
if [ -e "$state/log" ]; then steps=$(json_lines <"$state/log"); fi
if [ -e "$state/outcome" ]; then running=false outcome=$(json_lines <"$state/outcome"); fi
printf '{"steps": %s, "running": %s, "outcome": %s}\n' "$steps" "$running" "$outcome"
