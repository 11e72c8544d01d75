#!/bin/sh
# How far a restore is: restore-progress.sh RUN, as restore.sh called it. Output: lines KEY=VALUE: each "step" so far,
# then "outcome" or that it is "running"; neither: it was cut off, as by a restart of the machine.
set -eu
export PATH="${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
state=/run/smallkube/etcd-restore/$1
# Asked first, because what ends in between has written its outcome by then.
active=$(systemctl is-active smallkube-etcd-restore.service) || :
sed 's/^/step=/' "$state/log" 2>/dev/null || :
if [ -e "$state/outcome" ]; then
  echo "outcome=$(cat "$state/outcome")"
elif [ "$active" = active ]; then
  echo running=yes
fi
