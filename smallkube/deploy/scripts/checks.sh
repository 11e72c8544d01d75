#!/bin/sh
# Health checks of this machine, as JSON. Changes nothing.
#   checks.sh node primary|worker TRIES [PRIMARY_IPV6 PRIMARY_IPV4]    see within
#   checks.sh ready NODE_HOST SECONDS    on the primary: is that node a Ready member of the cluster?
set -u
comma=""

result() { # CHECK ok|failed|skipped DETAIL
  printf '%s{"subject": ""' "$comma"
  string check "$1"
  string result "$2"
  string detail "$3"
  printf '}'
  comma=", "
}
property() { systemctl show --property="$2" --value "$1.service" 2>/dev/null; }

# Whether a service of ours can run here at all: there is such a unit and its conditions were not found unmet. Before a
# change, with one try, a service that is not running is not waited for.
expected() { # SERVICE CHECK
  if [ "$(property "$1" LoadState)" != loaded ]; then
    result "$2" skipped "no unit $1"
  elif [ "$(property "$1" ConditionTimestampMonotonic)" != 0 ] && [ "$(property "$1" ConditionResult)" = no ]; then
    result "$2" skipped "$1 cannot run here (condition not met)"
  elif [ "$tries" -eq 1 ] && ! systemctl is-active --quiet "$1.service"; then
    result "$2" skipped "$1 is not running"
  else
    return 0
  fi
  return 1
}

# Runs a command until it succeeds; the last line of its output is the detail. It is given up when it has failed in $tries
# seconds of the clock: a command that fails at once runs several times in each.
within() { # CHECK COMMAND...
  check=$1 left=$tries outcome=failed second=""
  shift
  while :; do
    if output=$("$@" 2>&1); then
      outcome=ok
      break
    fi
    now=$(date +%s)
    if [ "$now" != "$second" ]; then left=$((left - 1)); fi
    [ "$left" -gt 0 ] || break
    second=$now
    sleep 0.1
  done
  result "$check" "$outcome" "$(printf '%s' "$output" | tail -n 1)"
}

ping_once() {
  if ping -n -q -c 1 -W 2 "$1" >/dev/null 2>&1; then
    echo "$1 answers"
  else
    echo "$1 does not answer"
    return 1
  fi
}
api_ready() { KUBECONFIG=/run/kubeconfig-root kubectl --request-timeout=5s get --raw /readyz; }
is_active() { systemctl is-active "$1.service"; }

node_checks() { # ROLE TRIES [PRIMARY_IPV6 PRIMARY_IPV4]
  role=$1 tries=$2
  shift 2
  # A machine with a new tunnel pings its peers: otherwise they use the previous session for another 15 s (WireGuard's
  # KEEPALIVE_TIMEOUT + REKEY_TIMEOUT).
  wg show wgkube allowed-ips 2>/dev/null | grep -o '[0-9a-f]*:[0-9]*::/32' | sed 's|::/32$|::1|' |
    xargs -r -n 1 -P 64 ping -n -q -c 1 -W 1 >/dev/null 2>&1
  if [ "$role" = primary ]; then
    if expected etcd etcd; then within etcd etcd_health; fi
    if expected kube-apiserver "API server"; then within "API server" api_ready; fi
  elif [ -e /sys/class/net/wgkube ]; then
    for address in "$@"; do within "tunnel to the primary, $address" ping_once "$address"; done
  elif [ $# -gt 0 ]; then
    result "tunnel to the primary" skipped "no interface wgkube"
  fi
  if expected kubelet kubelet; then within kubelet is_active kubelet; fi
}

ready() { # NODE_HOST SECONDS
  export KUBECONFIG=/run/kubeconfig-root
  if ! systemctl is-active --quiet kube-apiserver.service; then
    result "node Ready" skipped "the API server is not running"
  elif ! kubectl --request-timeout=5s get node "$1" >/dev/null 2>&1; then
    result "node Ready" skipped "$1 is not a member yet"
  elif output=$(kubectl wait --for=condition=Ready "node/$1" --timeout="$2s" 2>&1); then
    result "node Ready" ok "$1"
  else
    result "node Ready" failed "$output"
  fi
}

begin checks
printf ', "checks": ['
what=$1
shift
case $what in
node) node_checks "$@" ;;
ready) ready "$@" ;;
esac
printf ']'
end
