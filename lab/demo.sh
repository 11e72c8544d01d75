#!/bin/sh
# The main job on machines of the lab: from an inventory to a cluster that passes its smoke test, a backup and its
# drill, by the commands that an administrator types. `make demo` runs it; --quick leaves Kubernetes out. The machines
# stay up to look around.
set -eu
cd "$(dirname "$0")/.."
began=$(date +%s)
quick=
[ "${1:-}" != --quick ] || quick=yes

# A command ends with this script, also when that is killed: it must not be in the way of the next run.
bound() {
  setpriv --pdeathsig KILL -- "$@"
}

run() {
  printf '\n$ %s\n' "$*" >&2
  bound "$@"
}

export SMALLKUBE_WORKSPACE="$PWD/.smallkube/demo"
bound inv lab.down --name demo
rm -rf "$SMALLKUBE_WORKSPACE"
mkdir -p "$SMALLKUBE_WORKSPACE"

run inv lab.up --name demo --nodes 2 --workspace "$SMALLKUBE_WORKSPACE" ${quick:+--no-kubernetes}
run inv inventory.check
run inv keys.scan --yes
run inv keys.generate
run inv keys.check
run inv nix.render
run inv nix.check --override-input "nixpkgs=path:$PWD/lab/nix" --override-input "agenix=path:$PWD/lab/nix/agenix"
run inv deploy
run inv net.check
run inv deploy.status
if [ -z "$quick" ]; then
  run inv lab.shell node1 --name demo -- kubectl get nodes --output=wide
  run inv cluster.smoke
fi
run inv etcd.backup --verbose
run inv etcd.list
run inv etcd.drill --etcd-dir "$(python -m lab.etcd)"
if [ -z "$quick" ]; then
  run inv cluster.status
  run inv cluster.report --out "$SMALLKUBE_WORKSPACE/report.html"
fi

if [ -z "$quick" ]; then
  shown="both nodes Ready, the smoke test passed, etcd backed up and the backup restored as a drill"
  next="inv cluster.smoke
  inv lab.shell node1 --name demo -- kubectl get pods --all-namespaces
  inv deploy --dry-run"
else
  shown="the tunnel checked, etcd backed up and the backup restored as a drill; Kubernetes left out (make demo)"
  next="inv net.check
  inv lab.shell node1 --name demo -- wg show
  inv deploy --dry-run"
fi
cat >&2 <<END

Done in $(($(date +%s) - began)) s: two machines deployed from one inventory.yaml, every secret encrypted;
$shown.

The machines are up. To go on:
  cd $PWD && . .venv/bin/activate && export SMALLKUBE_WORKSPACE=$SMALLKUBE_WORKSPACE
  $next
To take them down: make demo-down
END
