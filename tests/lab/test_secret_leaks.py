"""Every task that talks to machines, under strace, the machines watched: secrets are in no argument, environment, log
or journal, and in files only where the policy has them. What needs Kubernetes is in tests/cluster/test_secret_leaks.py,
what needs no machine in tests/integration/test_secret_leaks.py.

kubectl is a stand-in that accepts the tokens that the API server would, and curl one that reaches it, so that rotations
are carried out.
"""

from collections.abc import Iterator

import pytest

from tests import machine_leaks
from tests.conftest import require
from tests.lab.operating import Operator
from tests.leaks import ON_MACHINES, Canaries
from tests.machine_leaks import WatchedOperator, Witness

KUBECTL = """\
#!/bin/sh
# Accepts the tokens that the API server would, and has no objects.
config=${KUBECONFIG:-} output=
while [ "$#" -gt 0 ]; do
  case $1 in
  --kubeconfig) config=$2 ;;
  --kubeconfig=*) config=${1#*=} ;;
  --output=*) output=${1#*=} ;;
  esac
  shift
done
token=$(sed -n 's/^ *"token": "\\(.*\\)"$/\\1/p' "$config")
printf '%s\\n' "$token" | grep --quiet --line-regexp --fixed-strings --file=- /run/agenix/kube_token_* || {
  echo 'error: You must be logged in to the server (Unauthorized)' >&2
  exit 1
}
case $output in json) echo '{"items": []}' ;; esac
"""
CURL = """\
#!/bin/sh
# Reaches the API server at its cluster IP, to which no kube-proxy leads here.
"""
FOLDER = "/usr/local/bin"


@pytest.fixture(scope="module")
def watched(deployed: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedOperator]:
    """The shared machines and what was ever done to them; in the end they have both nodes again."""
    require("lab", machine_leaks.needed(), "strace, with the right to trace, and a C compiler")
    stand_ins = [(machine, f"{FOLDER}/curl", CURL) for machine in deployed.lab.machines]
    stand_ins.append((deployed.lab.machine("node1"), f"{FOLDER}/kubectl", KUBECTL))
    for machine, path, text in stand_ins:
        machine.check("sh", "-c", f"cat >{path}; chmod 755 {path}", stdin=text)
    operator = WatchedOperator(deployed, tmp_path_factory.mktemp("leaks"))
    try:
        with operator.watching():
            yield operator
    finally:
        for machine, path, _ in stand_ins:
            machine.check("rm", path)


def test_what_was_deployed_before_leaked_no_secret(watched: WatchedOperator) -> None:
    assert len(watched.canaries.texts) > 10
    assert [leak for witness in watched.witnesses for leak in witness.leaks()] == []


@pytest.mark.parametrize(("line", "status"), ON_MACHINES.items(), ids=[line.split(" --")[0] for line in ON_MACHINES])
def test_a_task_leaks_no_secret(line: str, status: int, watched: WatchedOperator) -> None:
    inventory = watched.operator.workspace.inventory_file
    before = inventory.read_text()
    done = watched.run(line)
    assert done.status == status, done.stderr.read_text()
    assert watched.leaks(done) == []
    if line.startswith("nodes.remove"):
        inventory.write_text(before)


LEAKS = """\
/bin/true "$1"
secret=$1 /bin/true
logger "$1"
secret=$1 sleep 600 </dev/null >/dev/null 2>&1 &
for file in /root/leak /tmp/leak /run/leak /dev/shm/leak /nix/store/leak /run/agenix.d/other; do
  echo "x$1x" >"$file"
done
rm /run/agenix.d/other
echo $!
"""


def test_a_leak_on_a_machine_is_found(watched: WatchedOperator) -> None:
    """A leak of its own, which is taken away again."""
    canaries = Canaries()
    canaries.add("token", b"1aB" * 20)
    machine = watched.operator.lab.machine("node2")
    witness = Witness(machine, canaries, (), watched.witnesses[1].since)
    assert witness.leaks() == []
    sleeping = watched.operator.say("node2", "sh", "-c", LEAKS, "leaks", "1aB" * 20)
    found = [leak for leak in witness.leaks() if "/var/log/journal/" not in leak]
    files = "/dev/shm/leak", "/nix/store/leak", "/root/leak", "/run/leak", "/tmp/leak"
    machine.check("rm", *files)
    machine.check("kill", sleeping)
    started = {leak.rpartition(" of ")[2] for leak in found if " of " in leak}
    assert {"/bin/true", "logger", "sleep"} <= started
    assert {leak.rpartition(" is in ")[2] for leak in found if " is in " in leak} == {*files}
    assert {leak.rpartition(" written to ")[2] for leak in found if " written to " in leak} == {"the journal", "/proc"}
