"""Every task that needs machines, under strace, and so are the machines: secrets are in no argument, environment, log,
disk or journal in clear. The other tasks are run by tests/integration/test_secret_leaks.py.

There is no API server here. kubectl is a stand-in that accepts the tokens that the API server would, so that rotations
are carried out; what needs more ends where it is said below.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.machine import Machine
from lab.places import Places
from smallkube.core.workspace import REPOSITORY
from tests import leaks
from tests.conftest import require
from tests.lab.conftest import made
from tests.lab.operating import Operator, await_
from tests.leaks import FIRST, ON_MACHINES, Allowed, Canaries, Trace, Traced

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
case $output in json | "") echo '{"items": []}' ;; esac
"""
INSTALL = "cat >/usr/local/bin/kubectl; chmod 755 /usr/local/bin/kubectl"
IDENTITIES = Allowed(r"/keys/(\.tmp-)?master_key", "master_key", "where the identities are kept, 0600")
STRACE = (
    *("strace", "--follow-forks", "--quiet=all", "--signal=none", "--no-abbrev", f"--string-limit={1 << 20}"),
    "--trace=execve,execveat",
)
"""Of a machine: what it starts. What it writes is searched for on its disk, for it must write secrets to /run."""


@dataclass
class TracedLab:
    """Two machines whose programs are recorded from before the first deploy, and an operator under strace."""

    operator: Operator
    folder: Path
    canaries: Canaries = field(default_factory=Canaries)
    count: int = 0

    def run(self, line: str) -> Traced:
        task, *words = line.split()
        self.count += 1
        verbose = () if "--" in words else ("--verbose",)
        argv = [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), task, *words, *verbose]
        self.canaries.read(self.operator.workspace)
        done = leaks.traced(argv, self.folder / f"{self.count}-{task}", self.operator.environment)
        self.canaries.read(self.operator.workspace)
        return done

    def leaks(self, done: Traced) -> list[str]:
        """Of a task, and of the machines up to now."""
        found = done.trace.leaks(self.canaries, (IDENTITIES,))
        found += leaks.in_files(self.operator.root, self.canaries, (IDENTITIES,))
        for machine in self.machines:
            trace = Trace.read(self.folder / machine.name)
            assert len(trace.started) > 10, machine.name
            found += [f"{machine.name}: {leak}" for leak in trace.leaks(self.canaries)]
        return found

    @property
    def machines(self) -> tuple[Machine, ...]:
        return tuple(self.operator.lab.machines)


@contextmanager
def recorded(machine: Machine, file: Path) -> Iterator[None]:
    """Record what every process of the machine starts."""
    attached = [f"--attach={pid}" for pid in _processes(machine)]
    process = subprocess.Popen([*STRACE, f"--output={file}", *attached])
    await_("strace", lambda: all(_traced_by(pid) == process.pid for pid in _processes(machine)))
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _processes(machine: Machine) -> list[int]:
    """Those in the machine's process namespace."""

    def namespace(pid: int) -> str:
        try:
            return str(Path(f"/proc/{pid}/ns/pid").readlink())
        except OSError:
            return ""

    assert machine.init
    own = namespace(machine.init)
    return [pid for path in Path("/proc").glob("[0-9]*") if namespace(pid := int(path.name)) == own]


def _traced_by(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/status").read_text().partition("\nTracerPid:")[2].split()[0])
    except (OSError, IndexError):
        return 0


@pytest.fixture(scope="module")
def lab(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedLab]:
    """As the first deploy leaves it, which is traced as well."""
    require("lab", leaks.available(), "strace, with the right to trace")
    folder = tmp_path_factory.mktemp("leaks")
    with made(places, "leaks", 2) as up, ExitStack() as recordings:
        for machine in up.lab.machines:
            recordings.enter_context(recorded(machine, folder / machine.name))
        up.lab.machine("node1").check("sh", "-c", INSTALL, stdin=KUBECTL)
        traced = TracedLab(Operator(up.lab, up.workspace), folder)
        for line in FIRST:
            done = traced.run(line)
            assert done.status == 0, done.stderr.read_text()
            assert traced.canaries.texts or line == FIRST[0]
            assert line != "deploy" or traced.leaks(done) == []
        yield traced


@pytest.mark.parametrize(("line", "status"), ON_MACHINES.items(), ids=[line.split(" --")[0] for line in ON_MACHINES])
def test_a_task_leaks_no_secret(line: str, status: int, lab: TracedLab) -> None:
    done = lab.run(line)
    assert done.status == status, done.stderr.read_text()
    assert lab.leaks(done) == []


def on_disk(lab: TracedLab, machine: Machine) -> list[str]:
    """What the machine has written: to its disk, the Nix store on it included, and to the journal."""
    found = [leak for folder in ("upper", "volumes") for leak in leaks.in_files(machine.folder / folder, lab.canaries)]
    journal = machine.check("sh", "-c", "journalctl --all --output=cat | tr -cd '\\11\\12\\40-\\176'")
    return found + [f"{name} is in the journal" for name in sorted(lab.canaries.found(journal.encode()))]


def test_disks_and_journals_hold_no_secret(lab: TracedLab) -> None:
    assert [leak for machine in lab.machines for leak in on_disk(lab, machine)] == []


def test_a_leak_on_a_machine_is_found(lab: TracedLab) -> None:
    """The last test: it leaks."""
    name, machine = "kube_token_root", lab.operator.lab.machine("node1")
    token = lab.operator.done("keys.show", name).strip()
    machine.check("sh", "-c", "systemd-run --quiet --wait logger $(cat /run/agenix/kube_token_root)")
    machine.check("sh", "-c", "cat /run/agenix/kube_token_root >/root/leak; sync")
    assert name in lab.canaries.found(token.encode())
    trace = Trace.read(lab.folder / machine.name)
    assert f"{name} in the arguments or the environment of /usr/bin/logger" in trace.leaks(lab.canaries)
    assert on_disk(lab, machine) == [f"{name} is in {machine.folder}/upper/root/leak", f"{name} is in the journal"]
