#!/bin/sh
# Starts an activation that no connection's end can stop: activate.sh NONCE SYSTEM ACTION. It is over when there is a
# file "status" in /run/smallkube/NONCE.
set -eu
state=/run/smallkube/$1
mkdir -p "$state"
# shellcheck disable=SC2016 # expanded by the shell that runs in the unit
systemd-run --quiet --no-block --collect --unit="smallkube-activate-$1" --setenv=PATH="$PATH" \
  --setenv=NIXOS_NO_CHECK=1 --property=KillMode=mixed /bin/sh -c '
    "$1/bin/switch-to-configuration" "$2" >"$3/log" 2>&1
    echo "$?" >"$3/status.new"
    mv "$3/status.new" "$3/status"
  ' activate "$2" "$3" "$state"
