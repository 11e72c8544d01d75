#!/bin/sh
# Becomes the supervisor of one machine: start-node.sh NAME LOWER UPPER WORK ROOT GROUPS NSPAWN-ARGUMENT...
# Runs in the lab's network namespace and in a mount namespace of its own: the machine's disk is mounted nowhere else,
# so it is gone from this machine the moment the supervisor is, however that ends.
# GROUPS: the cgroup.procs files of the machine's control group, separated by colons.
set -eu
name=$1 lower=$2 upper=$3 work=$4 root=$5 groups=$6
shift 6

machine() (
  IFS=:
  for file in $groups; do
    echo 0 > "$file"
  done
  unset IFS
  # The end of a link whose machine was cut off a moment ago may still be there: the kernel clears network namespaces
  # away in its own time, those of pods above all.
  ip link delete "vb-$name" 2>/dev/null || :
  # Its lock files would stay in /run when the machine is cut off; the lab starts each machine once.
  SYSTEMD_NSPAWN_LOCK=0 exec systemd-nspawn --machine="$name" --directory="$root" "$@"
)

mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" overlay "$root"
# A machine that reboots ends with this status (see systemd-nspawn@.service); its supervisor is to start it again.
status=133
while [ "$status" -eq 133 ]; do
  status=0
  machine "$@" || status=$?
done
exit "$status"
