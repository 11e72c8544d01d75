#!/bin/sh
# Facts about this machine, as JSON. Changes nothing but the lock of a deploy, when it is to take that.
#   facts.sh deploy BUNDLE_DIGEST SCRIPTS_DIGEST
#   facts.sh locked OWNER NONCE HOLDER BUNDLE_DIGEST SCRIPTS_DIGEST    the same, once it has the lock, which it takes
#   facts.sh deployed INDEX
#   facts.sh host MTU BUNDLE_DIGEST UNITS... -- TUNNEL_ADDRESSES...
#   facts.sh progress NONCE [TENTHS]    once the activation goes on no further by itself, or so many tenths of a second later
#   facts.sh generations
#   facts.sh etcd SYSTEM ENDPOINT
set -u
home=/var/lib/smallkube
profile=/nix/var/nix/profiles/system

free_kib() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { found = $4 } END { print found + 0 }'; }
units() { systemctl list-units --plain --no-legend "$@" 2>/dev/null | awk '{ print $1 }'; }
host_key() {
  key=/etc/ssh/ssh_host_ed25519_key
  ssh-keygen -y -f "$key" 2>/dev/null </dev/null || cat "$key.pub" 2>/dev/null
}
systems() {
  string system "$(readlink -f /run/current-system)"
  string profile "$(readlink -f "$profile")"
  string generation "$(current_generation)"
}
current_generation() { readlink "$profile" | sed 's/[^0-9]//g'; }
history() { # what was sent without a deploy (smallkube/deploy/history.py) must not crowd out the deploys
  list history "$(awk '/"outcome": "sent"/ { delete line[sent]; sent = NR }
    NF { line[NR] = $0 }
    END { for (i = 1; i <= NR; i++) if (i in line) print line[i] }' "$home/history.jsonl" 2>/dev/null | tail -n 200)"
}

deploy_facts() {
  flag has_bundle test -d "$home/bundles/$1"
  flag has_scripts test -d "$home/scripts/$2"
  string host_key "$(host_key)"
  number clock "$(date +%s)"
  number store_free "$(free_kib /nix/store)"
  number state_free "$(free_kib /var/lib)"
  systems
  history
  list failed "$(units --state=failed)"
  list armed "$(units 'smallkube-rollback-*.timer' 'smallkube-rollback-*.service')"
}

rendered() {
  cd "$home/bundles" || return
  grep -H ' nixpkgs\.url = ' -- */nix/flake.nix
  grep -H ' = ' -- */nix/rendered/cluster.nix
}
deployed() { # INDEX of the node
  string system "$(readlink -f /run/current-system)"
  history
  string peers "$(sha256sum /etc/smallkube/peers.json 2>/dev/null | cut -d ' ' -f 1)"
  string public_key "$(wg show wgkube public-key 2>/dev/null)"
  (cd "$home/bundles" && sha256sum -- */"keys/wgkube$1.key.age") 2>/dev/null |
    sed -n 's|^\([0-9a-f]*\)  \([0-9a-f]*\)/.*|"\2": "\1"|p' | object wireguard
  list rendered "$(rendered 2>/dev/null | head -n 2000)"
  list own_keys "$({ cd /run/agenix && ls -d -- wgkube*.key; } 2>/dev/null)"
}

# Prints "ADDRESS": MILLISECONDS, null when nothing comes back.
ping_once() { # address, count of bytes, options
  address=$1 bytes=$2 time=null
  shift 2
  # The first packet may be lost to the handshake that it triggers.
  for try in 1 2 3; do
    : "$try"
    answer=$(ping -n -c 1 -W 2 -s "$bytes" "$@" "$address" 2>/dev/null)
    [ $? -lt 2 ] || break # it can't be sent at all: ping(8)
    case $answer in
    *time=[0-9]*" ms"*)
      time=${answer#*time=}
      time=${time%% ms*}
      break
      ;;
    esac
  done
  printf '"%s": %s\n' "$address" "$time"
}
# So many at once, that hundreds of nodes don't exhaust a small machine.
at_once=128
# Whether there is a peer without a session (REJECT_AFTER_TIME of WireGuard).
without_session() {
  wg show wgkube latest-handshakes 2>/dev/null |
    awk -v oldest=$(($(date +%s) - 180)) '$2 < oldest { found = 1 } END { exit !found }'
}
# Two peers whose first messages cross drop each other's answers, and try again after five seconds, which may cross too:
# the later node of a pair leaves the first word to the other.
pings() { # addresses of the nodes after this one, --, of those before it
  started=0
  for address in "$@"; do
    if [ "$address" = -- ]; then
      if without_session; then sleep 1; fi
      continue
    fi
    ping_once "$address" 56 &
    started=$((started + 1))
    [ $((started % at_once)) != 0 ] || wait
  done
  wait
}
full_pings() {
  started=0
  for address in "$@"; do
    case $address in
    *:*) ping_once "$address" "$((mtu - 48))" -M "do" & ;;
    *) ping_once "$address" "$((mtu - 28))" -M "do" & ;;
    esac
    started=$((started + 1))
    [ $((started % at_once)) != 0 ] || wait
  done
  wait
}
# Prints "ADDRESS": "SOURCE" for each peer of WireGuard: from where the kernel sends to it.
sources() {
  wg show wgkube endpoints 2>/dev/null |
    awk '$2 ~ /^[][0-9a-f.:]+$/ { sub(/:[0-9]+$/, "", $2); gsub(/[][]/, "", $2); print $2 }' |
    while read -r address; do
      source=$(ip -oneline route get "$address" 2>/dev/null | sed -n 's/.* src \([0-9a-f.:]*\).*/\1/p')
      printf '"%s": "%s"\n' "$address" "$source"
    done
}
# Prints FAMILY TABLE CHAIN of all that drop what is forwarded, unless a rule of theirs accepts it.
dropping() {
  nft list chains 2>/dev/null | awk '
    $1 == "table" { table = $2 " " $3 }
    $1 == "chain" { chain = $2 }
    / hook forward / && /policy drop;/ { print table, chain }'
}
# object NAME: lines "KEY": VALUE of standard input as an object.
object() { printf ', "%s": {%s}' "$1" "$(paste -s -d , -)"; }

readable() {
  for file in "$home/bundles/$1"/keys/*.age; do
    if age --decrypt -i /etc/ssh/ssh_host_ed25519_key "$file" >/dev/null 2>&1; then basename "$file"; fi
  done
}
host_facts() {
  mtu=$1 bundle=$2
  shift 2
  units=""
  while [ "$1" != "--" ]; do
    units="$units $1"
    shift
  done
  shift
  number clock "$(date +%s)"
  systems
  history
  list bridge "$(ip -oneline address show dev brkube 2>/dev/null | awk '{ sub("/.*", "", $4); print $4 }')"
  answers=$(pings "$@")
  printf '%s\n' "$answers" | object ping
  # One that is silent need not be asked again.
  {
    printf '%s\n' "$answers" | grep ': null$'
    # shellcheck disable=SC2046 # one word per address
    full_pings $(printf '%s\n' "$answers" | sed -n '/: null$/!s/^"\([^"]*\)".*/\1/p')
  } | object mtu
  wg show wgkube latest-handshakes 2>/dev/null | awk '{ print "\"" $1 "\": " $2 }' | object handshakes
  sources | object sources
  list dropping "$(dropping)"
  list tables "$(nft list tables 2>/dev/null | sed 's/^table //')"
  (cd /run/agenix && stat -L -c '"%n": "%a %U %G"' -- *) 2>/dev/null | object secrets
  if [ "$bundle" ] && command -v age >/dev/null; then list readable "$(readable "$bundle")"; else number readable null; fi
  string etcd "$(if [ -S /run/etcd/grpc ]; then etcd_health; fi)"
  # shellcheck disable=SC2086 # one word per unit
  systemctl show --property=Id,LoadState,ActiveState,ConditionResult,ConditionTimestampMonotonic $units 2>/dev/null |
    text units
}

progress() { # NONCE [TENTHS]
  state=/run/smallkube/$1 left=${2:-0}
  while [ "$left" -gt 0 ] && [ -d "$state" ] && ! [ -e "$state/status" ] && ! [ -L "$state/decision" ] &&
    ! [ -e "$state/held" ]; do
    sleep 0.1
    left=$((left - 1))
  done
  flag begun test -d "$state"
  flag held test -e "$state/held"
  number clock "$(date +%s%6N)"
  number status "$(cat "$state/status" 2>/dev/null)"
  string outcome "$(readlink "$state/decision" 2>/dev/null)"
  number rollback_status "$(cat "$state/rollback.status" 2>/dev/null)"
  string system "$(readlink -f /run/current-system)"
  list failed "$(units --state=failed)"
  tail -c 20000 "$state/log" 2>/dev/null | text log
}

generations() {
  string current "$(current_generation)"
  for link in "$profile"-*-link; do
    number=${link#"$profile-"}
    if [ -e "$link" ]; then printf '"%s": "%s"\n' "${number%-link}" "$(readlink -f "$link")"; fi
  done | object systems
}

version() { sed -n 's/.*[Vv]ersion[": ]*\([0-9][0-9.]*[0-9]\).*/\1/p' | head -n 1; }
etcd_versions() { # SYSTEM ENDPOINT
  string running "$({ /run/current-system/sw/bin/etcd --version | head -n 1 | version; } 2>/dev/null)"
  string target "$({ "$1/sw/bin/etcd" --version | head -n 1 | version; } 2>/dev/null)"
  # Without etcd, as before the first deploy, etcdctl would try for five seconds.
  string data "$(if [ -S "${2#unix://}" ]; then
    timeout 15 etcdctl --endpoints "$2" --command-timeout 5s endpoint status -w json 2>/dev/null
  fi | sed -n 's/.*"storageVersion":"\([0-9][0-9.]*[0-9]\)".*/\1/p')"
}

what=$1
shift
if [ "$what" = locked ]; then
  set -e
  lock "$1" "$2" "$3"
  set +e
  exec 9>&-
  shift 3
fi
begin facts
case $what in
deploy | locked) deploy_facts "$@" ;;
deployed) deployed "$@" ;;
host) host_facts "$@" ;;
progress) progress "$@" ;;
generations) generations ;;
etcd) etcd_versions "$@" ;;
esac
end
