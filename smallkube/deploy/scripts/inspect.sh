#!/bin/sh
# What a machine is like now, in sections that start with "@NAME". Changes nothing.
# inspect.sh MTU BUNDLE_DIGEST UNITS... -- TUNNEL_ADDRESSES...
set -u
mtu=$1 bundle=$2
shift 2
units=""
while [ "$1" != "--" ]; do
  units="$units $1"
  shift
done
shift

once() { # address, count of bytes, options: prints "ADDRESS MILLISECONDS" or "ADDRESS lost"
  address=$1 bytes=$2
  shift 2
  # The first packet may be lost to the handshake that it triggers.
  for try in 1 2 3; do
    : "$try"
    if time=$(ping -n -c 1 -W 2 -s "$bytes" "$@" "$address" 2>/dev/null | sed -n 's/.*time=\([0-9.]*\) ms.*/\1/p') &&
      [ -n "$time" ]; then
      echo "$address $time"
      return
    fi
  done
  echo "$address lost"
}

echo "@time"
date +%s
echo "@system"
readlink -f /run/current-system
readlink -f /nix/var/nix/profiles/system
readlink /nix/var/nix/profiles/system
stat -c %Y /run/current-system
echo "@history"
grep -v '"outcome": "\(failed\|rolled back\|built\)"' /var/lib/smallkube/history.jsonl 2>/dev/null | tail -n 1
echo "@addresses"
ip -json address show 2>/dev/null
echo
echo "@ping"
for address in "$@"; do once "$address" 56 & done
wait
echo "@mtu"
for address in "$@"; do
  case $address in
  *:*) once "$address" "$((mtu - 48))" -M "do" & ;;
  *) once "$address" "$((mtu - 28))" -M "do" & ;;
  esac
done
wait
echo "@handshakes"
wg show wgkube latest-handshakes 2>/dev/null
echo "@tables"
nft list tables 2>/dev/null
echo "@secrets"
stat -L -c '%n %a %U %G' /run/agenix/* 2>/dev/null
echo "@readable"
if command -v age >/dev/null; then
  for file in "/var/lib/smallkube/bundles/$bundle"/keys/*.age; do
    if age --decrypt -i /etc/ssh/ssh_host_ed25519_key "$file" >/dev/null 2>&1; then basename "$file"; fi
  done
else
  echo "?"
fi
echo "@etcd"
if [ -S /run/etcd/grpc ]; then
  if said=$(etcdctl --endpoints unix:///run/etcd/grpc --dial-timeout 3s --command-timeout 5s endpoint health 2>&1); then
    echo "healthy"
  else
    printf 'unhealthy: %s\n' "$(printf '%s\n' "$said" | tail -n 1)"
  fi
fi
echo "@units"
# shellcheck disable=SC2086 # one word per unit
systemctl show --property=Id,LoadState,ActiveState,ConditionResult,ConditionTimestampMonotonic $units 2>/dev/null
