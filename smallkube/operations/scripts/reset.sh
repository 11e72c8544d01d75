#!/bin/sh
# Undoes this machine as a node of the cluster: reset.sh SECRETS... (names under /run/agenix). Ends pods and services, and
# removes their state, links, firewall tables and secrets. Prints JSON: what was stopped and removed, and what is left.
# May be repeated. Never enters another file system: volumes that are mounted are unmounted, not emptied.
set -u
# The kubelet comes first, or it would start the pods again; CRI-O and etcd come after those that use them.
first="kube-node-roles.timer kube-node-roles.service kube-activation.service kubelet.service kube-proxy.service
  coredns.service kube-scheduler.service kube-controller-manager.service kube-apiserver.service kube-identities.service
  generate-kubeconfig-root.service generate-kubeconfig-node.service wgkube-handshakes.service"
last="crio.service etcd.service"
folders="/var/lib/kubelet /var/lib/crio /var/lib/containers /var/lib/cni /var/lib/etcd /var/lib/kube-apiserver
  /var/lib/kube-identities /var/lib/kube-node-roles /var/lib/smallkube /var/log/kube-apiserver /var/log/pods /var/log/containers /run/crio
  /run/containers"
tables="inet:kube-guard ip:kube-nat ip6:kube-nat ip:kube-proxy ip6:kube-proxy"
faults=$(mktemp)
removed=$(mktemp)
trap 'rm -f "$faults" "$removed"' EXIT

crictl() { timeout 300 crictl --runtime-endpoint unix:///run/crio/crio.sock --timeout 60s "$@"; }
running() { # UNITS...
  systemctl list-units --plain --no-legend --state=active,activating,deactivating,reloading "$@" 2>/dev/null |
    awk '{ print $1 }'
}
stop() { # UNITS...
  running "$@"
  timeout 180 systemctl stop "$@" >/dev/null 2>&1
  running "$@" | sed 's/$/ still runs/' >>"$faults"
}
# Prints the mount points below a folder, the innermost first.
mounts() { # FOLDER
  awk -v below="$1/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r path; do
    printf '%b\n' "$path"
  done
}
empty() { # FOLDER
  if [ ! -e "$1" ]; then return; fi
  real=$(readlink -f "$1")
  mounts "$real" | while IFS= read -r path; do
    timeout 30 umount -- "$path" 2>/dev/null || umount --lazy -- "$path" 2>/dev/null
  done
  left=$(mounts "$real" | head -n 1)
  if [ -n "$left" ]; then
    echo "$1: $left is still mounted" >>"$faults"
  elif [ -z "$(find "$real/" -xdev -mindepth 1 -print -quit)" ]; then
    if rmdir "$real" 2>/dev/null; then echo "$1" >>"$removed"; fi
  elif find "$real/" -xdev -mindepth 1 -delete 2>/dev/null; then
    rmdir "$real" 2>/dev/null # a mount point, or a link's target, may stay
    echo "$1" >>"$removed"
  else
    echo "$1: not everything could be removed" >>"$faults"
  fi
}
gone() { # WORDS OF ITS NAME... -- COMMAND...
  name=
  while [ "$1" != "--" ]; do
    name="$name${name:+ }$1"
    shift
  done
  shift
  if "$@" 2>/dev/null; then echo "$name" >>"$removed"; else echo "$name could not be removed" >>"$faults"; fi
}

remove() { # SECRETS...
  for folder in $folders; do empty "$folder"; done
  for table in $tables; do
    family=${table%%:*}
    name=${table#*:}
    if nft list table "$family" "$name" >/dev/null 2>&1; then
      gone table "$family" "$name" -- nft delete table "$family" "$name"
    fi
  done
  for link in wgkube brkube; do
    if ip link show dev "$link" >/dev/null 2>&1; then gone link "$link" -- ip link delete dev "$link"; fi
  done
  for secret; do
    for file in /run/agenix/"$secret" /run/agenix.d/*/"$secret"; do
      if [ -e "$file" ]; then gone "$file" -- rm -f "$file"; fi
    done
  done
  for file in /run/kubeconfig-root /run/kubeconfig-node; do
    if [ -e "$file" ]; then gone "$file" -- rm -f "$file"; fi
  done
}

armed=$(running 'smallkube-rollback-*' | head -n 1)
if [ -n "$armed" ]; then
  echo "a deploy is not confirmed: $armed; wait until it is confirmed, or has rolled back" >&2
  exit 1
fi

owner=$(find /run/smallkube/lock -maxdepth 0 -mmin -15 -exec cat '{}/owner' ';' 2>/dev/null)
if [ -n "$owner" ]; then
  echo "a deploy is under way: $owner" >&2
  exit 1
fi

stop_all() {
  # shellcheck disable=SC2086 # one word per unit
  stop $first
  if systemctl --quiet is-active crio.service && command -v crictl >/dev/null; then
    crictl rmp --all --force >/dev/null 2>&1 # what it leaves ends with kubepods.slice
    crictl rmi --all >/dev/null 2>&1
  fi
  # shellcheck disable=SC2086
  stop $last
  stop kubepods.slice
}

begin reset
list stopped "$(stop_all)"

# What still runs would write again what is removed.
if [ ! -s "$faults" ]; then remove "$@"; fi
list removed "$(cat "$removed")"
list left "$(cat "$faults")"
end
