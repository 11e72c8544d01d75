#!/bin/sh
# The main job on machines of the lab: from an inventory to a running, encrypted, tunnelled cluster network, by the
# commands that an administrator types. `make demo` runs it; the machines stay up to look around.
set -eu
cd "$(dirname "$0")/.."

run() {
  printf '\n$ %s\n' "$*" >&2
  "$@"
}

export SMALLKUBE_WORKSPACE="$PWD/.smallkube/demo"
inv lab.down --name demo
rm -rf "$SMALLKUBE_WORKSPACE"
mkdir -p "$SMALLKUBE_WORKSPACE"

run inv lab.up --name demo --nodes 2 --workspace "$SMALLKUBE_WORKSPACE"
run inv inventory.check
run inv keys.scan --yes
run inv keys.generate
run inv keys.check
run inv nix.render
run inv nix.check
run inv deploy
run inv net.check
run inv deploy.status
# Kubernetes is on the machines where it was built before (make lab-kubernetes).
kubernetes=$(inv lab.shell node1 --name demo -- sh -c 'command -v kubectl || :')
if [ "$kubernetes" ]; then
  run inv lab.shell node1 --name demo -- kubectl get nodes --output=wide
  run inv cluster.smoke --image smallkube.lab/busybox:1 --pull-policy Never
fi
run inv etcd.backup --verbose
run inv etcd.list
run inv etcd.drill --etcd-dir "$(python -m lab.etcd)"
if [ "$kubernetes" ]; then
  run inv cluster.status
fi

cat >&2 <<END

The demo's machines are up. To look around:
  export SMALLKUBE_WORKSPACE=$SMALLKUBE_WORKSPACE
  inv lab.shell node1 --name demo
To take them down: make demo-down
END
