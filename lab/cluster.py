"""A whole lab: its machines, its network, its workspace; made, looked at and taken down again.

Everything a lab is made of is either in its state folder or a process that carries its mark, so taking it down needs
no record of what was done: the marked processes end (with them their mounts and network), the folder goes.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab import image, kubernetes, layer, network, processes, workspace
from lab.command import run
from lab.machine import HUB, Machine, needed_here
from lab.places import Places
from lab.removal import hold, remove_tree
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import lock, write_file

HUB_SCRIPT = Path(__file__).with_name("start-hub.sh")
RECORD = "lab.json"
AT_ONCE = max(2, os.cpu_count() or 2) * 2
"""Machines started at the same time."""

Step = Callable[[str, str], None]
"""Called with a machine's name and what it is at."""


@dataclass(frozen=True)
class Record:
    """What is written down about a lab; ``complete`` once all its machines had started.

    ``kubernetes`` is the folder with the programs of Kubernetes that its machines have, empty if they have none, and
    ``further`` those of further minors.
    """

    number: int
    image: str
    workspace: str
    nodes: tuple[int, ...]
    complete: bool
    kubernetes: str = ""
    further: tuple[str, ...] = ()

    @property
    def layers(self) -> list[Path]:
        """What the machines' disks are layered over besides the lab's own layer, uppermost first."""
        return [Path(folder) for folder in (*self.further, self.kubernetes, self.image) if folder]


@dataclass(frozen=True)
class MachineStatus:
    """One machine as ``lab.status`` shows it; ``system`` is the store path it runs."""

    node: str
    state: str
    ssh: str
    peer_ip: str
    system: str


@dataclass(frozen=True)
class Lab:
    """The lab called ``name`` of this user."""

    places: Places
    name: str

    @property
    def folder(self) -> Path:
        return self.places.state / self.name

    @property
    def _lock_file(self) -> Path:
        return self.places.state / f"{self.name}.lock"

    @property
    def key(self) -> Path:
        """The operator's ephemeral SSH key for this lab's machines."""
        return self.folder / "ssh_key"

    @property
    def record(self) -> Record | None:
        """What was written down, None when there is no such lab."""
        return _read_record(self.folder)

    @property
    def machines(self) -> list[Machine]:
        """Its machines by index."""
        record = self.record
        return [Machine(self.folder, record.number, index) for index in record.nodes] if record else []

    def machine(self, name: str) -> Machine:
        """One machine by its name; raises UsageError when the lab has none of that name."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise UsageError(f"the lab {self.name} has no {name}", hint="inv lab.status")

    def up(
        self,
        nodes: int,
        folder: Path | None,
        say: Callable[[str], None],
        step: Step,
        programs: Path | None = None,
        minor: str = kubernetes.MINOR,
    ) -> Path:
        """Make the lab, or whatever of it is not there or not running; returns its workspace.

        An unfinished or crashed lab of this name is taken away first. ``folder`` is the workspace (by default one in
        the lab's own state), ``programs`` what a new lab's machines get of Kubernetes (see lab/kubernetes.py), besides
        all further minors that are built; ``minor`` is what its new inventory names. When it fails or is interrupted,
        a lab that was not there before is gone again.
        Raises UsageError when this machine can't have a lab.
        """
        check_prerequisites()
        root = image.ensure(self.places.cache, say)
        further = kubernetes.built_further(self.places.cache) if programs else ()
        with self.locked(), hold(path for path in (root, programs, *further) if path) as held:
            record = self.record
            number = record.number if record else 0
            if record is not None and not (record.complete and processes.find(self.folder, HUB)):
                say(f"cleaning up what is left of an earlier lab {self.name}")
                self._remove()
                record = None
            if record is not None:
                if folder is not None and str(folder.resolve()) != record.workspace:
                    hint = f"its workspace is {record.workspace}; inv lab.down takes it down"
                    raise UsageError(f"the lab {self.name} is up with another workspace", hint=hint)
                return self._complete(record, nodes, say, step, minor)
            with self.undone_on_failure():
                found = self._found(root, folder, (programs, *further) if programs else (), number, held)
                return self._complete(found, nodes, say, step, minor)

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Take the lab away when the block fails or is interrupted."""
        try:
            yield
        except BaseException:
            self._remove()
            raise

    @contextmanager
    def begin(
        self, root: Path | None, folder: Path | None, programs: Sequence[Path] = (), number: int = 0
    ) -> Iterator[tuple[Record, socket.socket]]:
        """The beginnings of a new lab: its folder, number (``number`` if it is free), key. Hold ``locked`` meanwhile.

        The socket is what reserves the number: a process of the lab must inherit it before the block ends.
        """
        # The numbers of this user's labs that are down stay theirs: inventories outside the labs' state name them.
        reserved = (record.number for lab in all_labs(self.places) if lab.name != self.name and (record := lab.record))
        number, claim = network.claim_number(network.claim, reserved, number)
        with claim:
            remove_tree(self.folder)
            place = (folder or self.folder / "workspace").resolve()
            own, *further = map(str, programs or ("",))
            record = Record(number, str(root or ""), str(place), (), False, own, tuple(further))
            self.write(record)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.name}", "-f", self.key])
            yield record, claim

    def _found(
        self, root: Path, folder: Path | None, programs: Sequence[Path], number: int, held: Sequence[int]
    ) -> Record:
        with self.begin(root, folder, programs, number) as (record, claim):
            layer.make(self.folder / "layer", root, with_kubernetes=bool(programs))
            start_hub = ["unshare", "--net", "sh", HUB_SCRIPT, network.BRIDGE, network.BRIDGE_ADDRESS]
            processes.spawn(start_hub, self.folder, HUB, self.folder / "hub.log", inherited=[claim.fileno(), *held])
            self._await_hub(seconds=10)
        return record

    def _await_hub(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not any(process.name == "sleep" for process in processes.find(self.folder, HUB)):
            if time.monotonic() > deadline:
                lines = (self.folder / "hub.log").read_text().strip().splitlines() or ["nothing"]
                raise SmallkubeError(f"the lab's network did not come up: {lines[-1]}", where=self.name)
            time.sleep(0.02)

    def _complete(self, record: Record, nodes: int, say: Callable[[str], None], step: Step, minor: str) -> Path:
        wanted = tuple(sorted({*record.nodes, *range(1, nodes + 1)}))
        machines = [Machine(self.folder, record.number, index) for index in wanted]
        public = Path(f"{self.key}.pub").read_text().strip()
        layers = (self.folder / "layer", *record.layers)

        def start(machine: Machine) -> None:
            if machine.index not in record.nodes:
                machine.kill()
                machine.create(public)
            step(machine.name, "starting")
            machine.start(layers)
            step(machine.name, "running")

        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            list(pool.map(start, machines))
        finally:
            pool.shutdown(cancel_futures=True)
        place = Path(record.workspace)
        lacking = workspace.write(place, record.number, workspace.container_hosts(wanted), self.key, minor=minor)
        workspace.pin(place, machines[0])
        if lacking:
            say("inventory.yaml is kept as it was; for these machines its nodes should have:")
            for line in lacking:
                say(line)
        self.write(replace(record, nodes=wanted, complete=True))
        return place

    def down(self) -> bool:
        """Take away everything the lab is made of and nothing else; returns whether there was anything.

        A workspace outside the lab's state stays, without the lab's key.
        """
        with self.locked():
            was_there = self._remove()
            self._lock_file.unlink(missing_ok=True)
            return was_there

    def _remove(self) -> bool:
        record = self.record
        if record is None and not self.folder.exists():
            return False
        processes.kill(self.folder)
        for name in self._node_names():
            Machine(self.folder, 0, int(name.removeprefix("node"))).clear()
        if record is not None:
            workspace.forget_key(Path(record.workspace), self.key)
        remove_tree(self.folder)
        return True

    def _node_names(self) -> list[str]:
        folder = self.folder / "nodes"
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []

    def status(self) -> list[MachineStatus]:
        """Its machines as they are now."""
        return [_status(machine) for machine in self.machines]

    def start_layers(self) -> Sequence[Path]:
        """What a machine's disk is layered over: give it to ``Machine.start`` to start one machine again."""
        record = self.record
        if record is None:
            raise UsageError(f"there is no lab {self.name}", hint="inv lab.up")
        return (self.folder / "layer", *record.layers)

    def write(self, record: Record) -> None:
        """Write down ``record``."""
        write_file(self.folder / RECORD, json.dumps(asdict(record), indent=2) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other tasks from changing this lab meanwhile; raises UsageError when one is at it."""
        with lock(self._lock_file, f"changing the lab {self.name}"):
            yield


def _status(machine: Machine) -> MachineStatus:
    running = machine.running
    system = machine.execute(["readlink", "-f", "/run/current-system"]).stdout.strip() if running else ""
    ssh = f"{network.operator_address(machine.number, machine.index)}:{network.SSH_PORT}"
    state = "running" if machine.ssh_reachable else "unreachable" if running else "off"
    return MachineStatus(machine.name, state, ssh, network.peer_address(machine.index), system)


def all_labs(places: Places) -> list[Lab]:
    """Every lab of this user, also an unfinished one."""
    folders = sorted(places.state.iterdir()) if places.state.is_dir() else []
    return [Lab(places, folder.name) for folder in folders if folder.is_dir()]


def _read_record(folder: Path) -> Record | None:
    try:
        found = json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None
    return Record(**{**found, "nodes": tuple(found["nodes"]), "further": tuple(found.get("further", ()))})


def check_prerequisites() -> None:
    """Raises UsageError when this machine can't have a lab: not root, or programs missing."""
    if os.geteuid() != 0:
        raise UsageError("the lab needs root", hint="run the same command as root")
    missing = needed_here()
    if missing:
        raise UsageError(f"the lab needs {', '.join(missing)}", hint="apt-get install systemd-container iproute2")
