#!/bin/sh
# On the primary: is a node a Ready member of the cluster? node-ready.sh NODE_HOST SECONDS. Prints one line as gates.sh.
set -u
say() { printf 'node Ready\t%s\t%s\n' "$1" "$2"; }
export KUBECONFIG=/run/kubeconfig-root

systemctl is-active --quiet kube-apiserver.service || {
  say "not applicable" "the API server does not run"
  exit
}
kubectl --request-timeout=5s get node "$1" >/dev/null 2>&1 || {
  say "not applicable" "$1 is not a member yet"
  exit
}
if said=$(kubectl wait --for=condition=Ready "node/$1" --timeout="$2s" 2>&1); then
  say ok "$1"
else
  say failed "$said"
fi
