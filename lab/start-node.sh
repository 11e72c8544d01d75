#!/bin/sh
# Becomes the supervisor of one machine: start-node.sh LOWER UPPER WORK ROOT GROUPS NSPAWN-ARGUMENT...
# Runs in the lab's network namespace and in a mount namespace of its own: the machine's disk is mounted nowhere else,
# so it is gone from this machine the moment the supervisor is, however that ends.
# GROUPS: the cgroup.procs files of the machine's control group, separated by colons.
set -eu
lower=$1 upper=$2 work=$3 root=$4 groups=$5
shift 5

machine() (
  IFS=:
  for file in $groups; do
    echo 0 > "$file"
  done
  unset IFS
  exec systemd-nspawn --directory="$root" "$@"
)

mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" overlay "$root"
# A machine that reboots ends with this status (see systemd-nspawn@.service); its supervisor is to start it again.
status=133
while [ "$status" -eq 133 ]; do
  status=0
  machine "$@" || status=$?
done
exit "$status"
