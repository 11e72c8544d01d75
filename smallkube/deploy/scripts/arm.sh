#!/bin/sh
# Has this machine go back by itself to the system that runs now, unless decide.sh is quicker: arm.sh NONCE SECONDS.
set -eu
old=$(readlink -f /run/current-system)
mkdir -p "/run/smallkube/$1"
if [ -d "$old" ]; then
  ln -sfn "$old" /nix/var/nix/gcroots/smallkube-rollback
fi
# A timer may be a minute late unless told otherwise.
systemd-run --quiet --unit="smallkube-rollback-$1" --on-active="$2" --timer-property=AccuracySec=1s \
  --setenv=PATH="$PATH" /bin/sh "$(dirname "$(readlink -f "$0")")/rollback.sh" "$1" "$old"
