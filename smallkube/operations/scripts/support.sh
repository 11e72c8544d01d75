#!/bin/sh
# What explains a fault of this machine, as JSON, without its secrets: support.sh ROLE UNITS...
# Every word of 16 characters or more of the files in /run/agenix, and of the SSH host key, is masked in all that is
# printed, and so are tokens by their shape. They are in no argument and no file.
set -u
role=$1
shift

secrets() { cat /run/agenix/* /run/agenix.d/*/* /etc/ssh/ssh_host_*_key 2>/dev/null | tr ' \t",' '[\n*]'; }
masked() { # BYTES at most, in whole lines: a part of a secret would not be recognised
  { secrets; echo; echo =====; cat; } | LC_ALL=C awk -v most="$1" '
    !begun && $0 == "=====" { begun = 1; next }
    !begun { if (length($0) >= 16 && $0 !~ /^-----/) secret[$0]; next }
    {
      for (word in secret)
        while (at = index($0, word)) $0 = substr($0, 1, at - 1) "[masked]" substr($0, at + length(word))
      gsub(/eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?/, "[masked]")
      line = substr($0, 1, 2000)
      if ((sum += length(line)) > most) exit
      print line
    }'
}
section() { # NAME BYTES COMMAND...
  name=$1 most=$2
  shift 2
  "$@" 2>&1 </dev/null | masked "$most" | text "$name"
}

versions() {
  readlink -f /run/current-system
  uname -a
  for program in nixos-version systemctl nix kubelet kube-apiserver etcd crio coredns; do
    if command -v "$program" >/dev/null; then timeout 10 "$program" --version | head -n 1; fi
  done
}
journals() {
  for unit in "$@"; do
    echo "=== $unit"
    journalctl --boot --no-pager --quiet --utc --output=short-iso --lines=200 --unit="$unit"
  done
}
kernel() { journalctl --boot --dmesg --no-pager --quiet --utc --output=short-iso --priority=warning --lines=200; }
network() {
  ip -brief address
  ip route
  ip -6 route
  wg show # which hides keys that are private
}
disk() {
  df -h
  free -m
}
kube() { kubectl --kubeconfig /run/kubeconfig-root --request-timeout=20s "$@"; }

begin support
section versions 20000 versions
section units 200000 systemctl list-units --all --no-pager --plain --no-legend
section failed 20000 systemctl list-units --state=failed --no-pager --plain --no-legend
section journal 800000 journals "$@"
section kernel 50000 kernel
section rules 300000 nft list ruleset
section network 50000 network
section disk 20000 disk
section history 200000 tail -n 50 /var/lib/smallkube/history.jsonl
if [ "$role" = primary ]; then
  section nodes 100000 kube get nodes --output=wide
  section pods 300000 kube get pods --all-namespaces --output=wide
  section events 300000 kube get events --all-namespaces --sort-by=.lastTimestamp
  section ready 20000 kube get --raw '/readyz?verbose'
fi
end
