#!/bin/sh
# Throughput and latency between machines; $0 is this file.
#   bench.sh serve PORT SECONDS ADDRESSES...   sends zeros to these addresses, for so long at most
#   bench.sh stop
#   bench.sh measure PORT SECONDS NAME=ADDRESS...
#
# systemd's unit opens the firewall, and closes it however it ends, also when the connection is lost.
set -eu
unit=smallkube-bench
chain="inet nixos-fw input-allow"

# shellcheck disable=SC2086 # two words and a name
has_firewall() { nft list chain $chain >/dev/null 2>&1; }
open() { # PORT ADDRESSES...
  has_firewall || return 0
  port=$1
  shift
  for address in "$@"; do
    case $address in *:*) family=ip6 ;; *) family=ip ;; esac
    echo "insert rule $chain $family saddr $address tcp dport $port accept comment \"$unit\""
  done | nft -f -
}
shut() {
  # shellcheck disable=SC2086 # the same
  nft --handle list chain $chain 2>/dev/null | sed -n "s/.*comment \"$unit\".*# handle //p" |
    while read -r handle; do echo "delete rule $chain handle $handle"; done | nft -f -
}

listens() { ss --no-header --listening --tcp --numeric "sport = :$1" | grep -q .; }
serve() { # PORT SECONDS ADDRESSES...
  port=$1 seconds=$2
  shift 2
  for program in systemd-socket-activate nft ss ping bash; do
    command -v $program >/dev/null || fail "$program not found"
  done
  if systemctl --quiet is-active $unit.service; then fail "another net.bench runs here"; fi
  if listens "$port"; then fail "port $port is in use"; fi
  systemd-run --quiet --collect --unit=$unit --setenv=PATH="$PATH" --property=RuntimeMaxSec="$seconds" \
    --property=DynamicUser=yes --property=ExecStartPre="+/bin/sh $0 open $port $*" \
    --property=ExecStopPost="+/bin/sh $0 shut" \
    "$(command -v systemd-socket-activate)" --accept --inetd --listen="$port" "$(command -v cat)" /dev/zero
  tries=0
  until listens "$port"; do
    tries=$((tries + 1))
    if [ $tries -gt 50 ]; then
      stop
      fail "nothing listens on port $port"
    fi
    sleep 0.1
  done
}
stop() { systemctl stop $unit.service 2>/dev/null || true; }
fail() {
  echo "$1" >&2
  exit 1
}

# In 1/100 s, for how long the processors of this machine worked (proc(5), /proc/stat).
ticks() { awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat; }
# A member NAME; null is what could not be measured.
nothing='"bytes": null, "seconds": null'
measure_one() { # NAME ADDRESS
  ms=$(ping -n -q -c 10 -i 0.2 -W 2 "$2" 2>/dev/null | sed -n 's|^rtt [^=]*= [0-9.]*/\([0-9.]*\)/.*|\1|p')
  before=$(ticks)
  # Without --foreground, dd gets the signal twice, and the second one ends it before it says how much it copied.
  # shellcheck disable=SC2016 # for bash
  read='exec 3<>"/dev/tcp/$1/$2" && timeout --foreground --signal=INT "$3" dd bs=128k of=/dev/null <&3 2>&1'
  said=$(timeout $((seconds + 10)) bash -c "$read" - "$2" "$port" "$seconds" 2>/dev/null) || true
  spent=$(($(ticks) - before))
  copied=$(printf '%s\n' "$said" | sed -n 's/^\([0-9]*\) bytes .* copied, \([0-9.e-]*\) s,.*/"bytes": \1, "seconds": \2/p')
  printf ', "%s": {"milliseconds": %s, "ticks": %s, %s}' \
    "$1" "${ms:-null}" "$spent" "${copied:-$nothing}"
}
measure() { # PORT SECONDS NAME=ADDRESS...
  port=$1 seconds=$2
  shift 2
  begin bench
  for each in "$@"; do measure_one "${each%%=*}" "${each#*=}"; done
  end
}

command=$1
shift
"$command" "$@"
