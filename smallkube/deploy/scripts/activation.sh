#!/bin/sh
# The activation of a system, and the lock during a deploy.
#   activation.sh lock OWNER NONCE HOLDER | refresh NONCE | unlock NONCE
#   activation.sh arm NONCE SECONDS SYSTEM | confirm NONCE | trigger-rollback NONCE
#   activation.sh activate NONCE SYSTEM [hold] | release NONCE MICROSECONDS
#   activation.sh run-stale-rollbacks UNITS...
#   activation.sh commit SYSTEM
# /run/smallkube/NONCE has the state of one activation: log, status (once it has ended) and, once it is decided, the link
# "decision", which confirm and rollback.sh create together with its content, so that only one of them can.
set -eu
profile=/nix/var/nix/profiles/system
root=/nix/var/nix/gcroots/smallkube-rollback
here=$(dirname "$0")

# The timer rolls back from SYSTEM to the one that runs now. Without AccuracySec it may be a minute late.
# A machine that shuts down, or that has started into a rescue shell, would run no rollback. One that is stuck in its
# start is deployed to: that may be what it needs.
arm() { # NONCE SECONDS SYSTEM
  manager=$(timeout 60 systemctl is-system-running --wait) || true
  case $manager in
  stopping | maintenance)
    echo "systemd is in the state \"$manager\", in which no rollback would run" >&2
    exit 1
    ;;
  esac
  previous=$(readlink -f /run/current-system)
  mkdir -p "/run/smallkube/$1"
  if [ -d "$previous" ]; then ln -sfn "$previous" "$root"; fi
  systemd-run --quiet --unit="smallkube-rollback-$1" --on-active="$2" --timer-property=AccuracySec=1s \
    --setenv=PATH="$PATH" /bin/sh "$here/rollback.sh" "$1" "$previous" "$3"
}

# In a unit of its own, which does not end with the connection. With "hold", it waits before the tunnel's keys change
# (nix/modules/wireguard.nix), to be released together with those of other machines.
activate() { # NONCE SYSTEM [hold]
  mkdir -p "/run/smallkube/$1"
  if [ "${3-}" = hold ]; then touch "/run/smallkube/$1/hold"; fi
  systemd-run --quiet --no-block --collect --unit="smallkube-activate-$1" --setenv=PATH="$PATH" \
    --setenv=NIXOS_NO_CHECK=1 --property=KillMode=mixed /bin/sh "$0" switch "$1" "$2"
}
switch() { # NONCE SYSTEM
  status=0
  "$2/bin/switch-to-configuration" test >"/run/smallkube/$1/log" 2>&1 || status=$?
  echo "$status" | write "/run/smallkube/$1/status"
}

release() { # NONCE MICROSECONDS
  if [ -e "/run/smallkube/$1/hold" ]; then echo "$2" | write "/run/smallkube/$1/hold"; fi
}

confirm() { # NONCE
  [ -d "/run/smallkube/$1" ] || {
    echo "too late: the machine has restarted" >&2
    exit 3
  }
  ln -sT confirmed "/run/smallkube/$1/decision" 2>/dev/null || {
    echo "too late: the machine has rolled back" >&2
    exit 3
  }
  systemctl stop "smallkube-rollback-$1.timer" 2>/dev/null || true
  rm -f "$root"
}

# Comes last: without it, a power cut is a rollback. Prints the number of the generation.
commit() { # SYSTEM
  if [ "$(readlink -f "$profile")" != "$1" ]; then nix-env --profile "$profile" --set "$1" >&2; fi
  NIXOS_NO_CHECK=1 "$1/bin/switch-to-configuration" boot >&2
  readlink "$profile" | sed 's/[^0-9]//g'
}

# Waits until rollbacks that no deploy will confirm any more have ended.
run_stale_rollbacks() { # UNITS...
  for unit in "$@"; do
    systemctl start --wait "${unit%.*}.service" || true
    systemctl stop "${unit%.*}.timer" || true
  done 2>/dev/null
}

what=$1
shift
case $what in
lock | refresh | unlock | arm | activate | switch | release | confirm | commit) "$what" "$@" ;;
trigger-rollback) systemctl start --no-block "smallkube-rollback-$1.service" ;;
run-stale-rollbacks) run_stale_rollbacks "$@" ;;
esac
