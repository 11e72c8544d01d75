#!/bin/sh
# Does what this machine is for work? gates.sh primary|worker TRIES [PRIMARY_IPV6 PRIMARY_IPV4]
# Without the primary's addresses the tunnel is not asked for. Tries are about a second apart.
# Prints "GATE<tab>ok|failed|not applicable<tab>DETAIL" for each gate. Changes nothing.
set -u
role=$1 tries=$2
shift 2

say() { printf '%s\t%s\t%s\n' "$1" "$2" "$3"; }
property() { systemctl show --property="$2" --value "$1.service" 2>/dev/null; }

# Whether a service of ours can run here at all: there is such a unit and its conditions were not found unmet.
expected() {
  [ "$(property "$1" LoadState)" = loaded ] || {
    say "$2" "not applicable" "no unit $1"
    return 1
  }
  if [ "$(property "$1" ConditionTimestampMonotonic)" != 0 ] && [ "$(property "$1" ConditionResult)" = no ]; then
    say "$2" "not applicable" "$1 can't run here (condition not met)"
    return 1
  fi
}

# Before a change, with one try, what does not run is not waited for.
runs() {
  [ "$tries" -gt 1 ] || systemctl is-active --quiet "$1.service" || {
    say "$2" "not applicable" "$1 does not run"
    return 1
  }
}

# Runs a command until it succeeds, as often as was allowed; its last line is the detail.
within() {
  gate=$1 left=$tries
  shift
  while :; do
    if said=$("$@" 2>&1); then
      say "$gate" ok "$(printf '%s' "$said" | tail -n 1)"
      return
    fi
    left=$((left - 1))
    [ "$left" -gt 0 ] || break
    sleep 1
  done
  say "$gate" failed "$(printf '%s' "$said" | tail -n 1)"
}

ping_once() {
  if ping -n -q -c 1 -W 2 "$1" >/dev/null 2>&1; then
    echo "$1 answers"
  else
    echo "$1 does not answer"
    return 1
  fi
}
etcd_health() { etcdctl --endpoints unix:///run/etcd/grpc --dial-timeout 3s --command-timeout 5s endpoint health; }
api_ready() { KUBECONFIG=/run/kubeconfig-root kubectl --request-timeout=5s get --raw /readyz; }
is_active() { systemctl is-active "$1.service"; }

# A machine whose tunnel was made anew greets its peers: they would go on with the old session for 15 s otherwise
# (WireGuard's KEEPALIVE_TIMEOUT + REKEY_TIMEOUT).
wg show wgkube allowed-ips 2>/dev/null | grep -o '[0-9a-f]*:[0-9]*::/32' | sed 's|::/32$|::1|' |
  xargs -r -n 1 -P 64 ping -n -q -c 1 -W 1 >/dev/null 2>&1

if [ "$role" = primary ]; then
  if expected etcd etcd && runs etcd etcd; then within etcd etcd_health; fi
  if expected kube-apiserver "API server" && runs kube-apiserver "API server"; then within "API server" api_ready; fi
elif [ -e /sys/class/net/wgkube ]; then
  for address in "$@"; do within "tunnel to the primary, $address" ping_once "$address"; done
elif [ $# -gt 0 ]; then
  say "tunnel to the primary" "not applicable" "no interface wgkube"
fi
if expected kubelet kubelet && runs kubelet kubelet; then within kubelet is_active kubelet; fi
