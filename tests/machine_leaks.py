"""Finding secrets where they must not be on machines: in what programs are started with, in the journal, in files.

Tracing machines would take minutes. Instead, a library is preloaded into their programs, which records what each is
started with; everything else is read when a task has ended.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.machine import Machine
from lab.nspawn import VOLUMES
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory
from smallkube.secrets import policy
from tests import leaks
from tests.lab.operating import Operator
from tests.leaks import KEPT, Allowed, Canaries, Trace, Traced

SOURCE = Path(__file__).with_name("started.c")
RECORD = "/dev/shm/started"
"""There also for services that see a file system of their own."""
FOLDER = "/var/lib/leaks"
PRELOAD = "/etc/ld.so.preload"
TAKE = f"""\
[ -e {RECORD} ] || install -m 0666 /dev/null {RECORD}
ln -f {RECORD} {RECORD}.taken
install -m 0666 /dev/null {RECORD}.next
mv {RECORD}.next {RECORD}
cat {RECORD}.taken
rm {RECORD}.taken
"""
JOURNAL = f"journalctl --sync; journalctl --all --quiet --output=export --cursor-file={FOLDER}/cursor"
PROCESSES = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true"
IN_MEMORY = ("run", "tmp", "dev")
"""What is no part of a machine's disk."""


def by_policy(inventory: Inventory, node: str) -> Iterator[Allowed]:
    """Where the policy says that ``node`` has secrets: below /run/agenix, as credentials of units, in kubeconfigs."""
    version = r"(\.(old|new))?"
    for row in policy.secrets_of(inventory):
        names, file = rf"{re.escape(row.name)}(\.\w+)?", re.escape(row.name_on(node)) + version
        if node in row.readers:
            units = "|".join(row.units)
            yield Allowed(rf"^/run/agenix\.d/\d+/{file}$", names, "decrypted")
            yield Allowed(rf"^/run/credentials/({units})\.service/{file}$", names, "credential of a unit")
        if node == row.node and row.user:
            for client in row.user.clients:
                path = client.file.replace("%d", f"/run/credentials/{client.name}.service")
                yield Allowed(rf"^{re.escape(path)}$", names, "kubeconfig of a client")
                yield Allowed(rf"^/run/{client.name}/kubeconfig$", names, "kubeconfig of a client")
        for unit in row.units if node == row.node and row.name == "kube_token_root" else ():
            yield Allowed(rf"^/run/{unit}/kubeconfig$", names, "kubeconfig of a unit that acts as root")
        if node == inventory.primary.name and row.kind is policy.Kind.TOKEN:
            yield Allowed(r"^/run/kube-apiserver/tokens\.csv$", names, "what the API server accepts")


@dataclass
class Witness:
    """Sees what leaks on ``machine``; it must be let in by ``installed``."""

    machine: Machine
    canaries: Canaries
    allowed: Sequence[Allowed]
    since: float = 0

    @contextmanager
    def installed(self, library: Path) -> Iterator[None]:
        shutil.copy(library, self._root / "tmp/leaks.so")
        self._say(f"{TAKE}mkdir -p {FOLDER}; mv /tmp/leaks.so {FOLDER}; echo {FOLDER}/leaks.so >{PRELOAD}")
        try:
            yield
        finally:
            self._say(f"rm {PRELOAD}; rm -r {FOLDER} {RECORD}")

    def started(self) -> Trace:
        """What was started since this was asked before, what runs, and what was logged."""
        text = self._say(TAKE)
        programs = [record.split(b"\0") for record in text.split(b"\0\0") if record]
        assert len(programs) > 1, f"{self.machine.name} recorded nothing"
        return Trace(programs, {"the journal": self._say(JOURNAL), "/proc": self._say(PROCESSES)})

    def leaks(self) -> list[str]:
        """Since this was asked before; at first since the machine was made."""
        since, self.since = self.since, time.time() - 1
        found = self.started().leaks(self.canaries)
        root = self._root
        disk = [self.machine.folder / name for name in ("upper", "volumes")]
        folders = [disk[0], *(disk[1] / name for name in VOLUMES), *(root / name for name in IN_MEMORY)]
        for path, name in leaks.secrets_in_files(folders, self.canaries, since):
            place = next(f"/{path.relative_to(base)}" for base in (root, *disk) if path.is_relative_to(base))
            if path.stat().st_mode & 0o007 or not any(each.covers(place, name) for each in self.allowed):
                found.append(f"{name} is in {place}")
        return [f"{self.machine.name}: {leak}" for leak in dict.fromkeys(found)]

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self.machine.init}/root")

    def _say(self, script: str) -> bytes:
        done = subprocess.run(self.machine.argv(["sh", "-c", script]), capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@dataclass
class WatchedOperator:
    """Runs tasks under strace at machines that each have a witness; ``folder`` is for what they leave behind."""

    operator: Operator
    folder: Path
    canaries: Canaries = field(default_factory=Canaries, repr=False)
    witnesses: list[Witness] = field(default_factory=list, repr=False)
    count: int = 0

    @contextmanager
    def watching(self) -> Iterator["WatchedOperator"]:
        library, inventory = self.folder / "started.so", load(self.operator.workspace.inventory_file)
        (self.folder / "tmp").mkdir()
        argv = ["cc", "-shared", "-fPIC", "-O2", f'-DRECORD="{RECORD}"', "-o", str(library), str(SOURCE)]
        subprocess.run(argv, check=True)
        self.canaries.read(self.operator.workspace)
        with ExitStack() as stack:
            for machine in self.operator.lab.machines:
                witness = Witness(machine, self.canaries, list(by_policy(inventory, machine.name)))
                stack.enter_context(witness.installed(library))
                self.witnesses.append(witness)
            yield self

    def run(self, line: str) -> Traced:
        """Run the words of ``line``, which may name several tasks."""
        self.count += 1
        argv = [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), *line.split()]
        environment = {**self.operator.environment, "TMPDIR": str(self.folder / "tmp")}
        self.canaries.read(self.operator.workspace)
        done = leaks.traced(argv, self.folder / f"{self.count}-{line.split(maxsplit=1)[0]}", environment)
        self.canaries.read(self.operator.workspace)
        return done

    def leaks(self, done: Traced) -> list[str]:
        """On the operator's machine and on the others, since this was asked before."""
        found = done.trace.leaks(self.canaries, KEPT)
        for folder in (self.operator.root, self.folder):
            found += leaks.in_files(folder, self.canaries, KEPT)
        return found + [leak for witness in self.witnesses for leak in witness.leaks()]


def needed() -> bool:
    """Whether this machine has what watching needs."""
    return leaks.available() and shutil.which("cc") is not None
