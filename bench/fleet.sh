#!/bin/sh
# The machines of fleet.py, in namespaces of their own: fleet.sh FOLDER COUNT. They end with its standard input.
set -eu
ip link set lo up
mount -t tmpfs fleet "$1/machines"
# The machines have no Nix; nor has the machine that asks them, so that all tasks only ask.
for name in nix nix-instantiate; do
  ! found=$(command -v "$name") || mount --bind /dev/null "$found"
done
number=1
while [ "$number" -le "$2" ]; do
  own=$1/machines/$number
  mkdir -p "$own/lib" "$own/root" "$own/tmp" "$own/run/sshd"
  cp "$1/keys/node$number" "$own/run/sshd/key"
  cp "$1/user.pub" "$1/sshd_config" "$own/run/sshd"
  # A folder of its own for everything that tasks, or what they are compared with, write. sshd leaves when it listens.
  # /tmp is the last: it may hide the others.
  # shellcheck disable=SC2016 # for the inner shell
  unshare --mount sh -euc '
    mount --bind "$1/lib" /var/lib
    mount --bind "$1/root" /root
    mount --bind "$1/run" /run
    mount --bind "$1/tmp" /tmp
    exec "$3" -f /run/sshd/sshd_config -h /run/sshd/key -o ListenAddress="$2" -E /run/sshd/log
  ' sh "$own" "127.88.0.$number" "$3"
  number=$((number + 1))
done
echo ready
exec cat
