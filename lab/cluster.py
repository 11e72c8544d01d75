"""A whole lab: its machines, its network, its workspace; made, looked at and taken down again.

Everything a lab is made of is either in its state folder or a process that carries its mark, so taking it down needs
no record of what was done: the marked processes end (with them their mounts and network), the folder goes.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lab import disk, image, kubernetes, layer, network, processes, qemu, workspace
from lab.command import run
from lab.machine import HUB, Machine, needed_here
from lab.nspawn import Container
from lab.places import Places
from lab.record import Parts, Record, read
from lab.removal import hold, remove_tree
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import lock

HUB_SCRIPT = Path(__file__).with_name("start-hub.sh")
AT_ONCE = max(2, os.cpu_count() or 2) * 2
"""Machines started at the same time."""

Step = Callable[[str, str], None]
"""Called with a machine's name and what it is at."""


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
        return read(self.folder)

    @property
    def machines(self) -> list[Machine]:
        """Its machines by index."""
        record = self.record
        return [record.machine(self.folder, record.number, index) for index in record.nodes] if record else []

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
        *,
        virtual: bool = False,
    ) -> Path:
        """Make the lab, or whatever of it is not there or not running; returns its workspace.

        An unfinished or crashed lab of this name is taken away first. ``folder`` is the workspace (by default one in
        the lab's own state), ``programs`` what a new lab's machines get of Kubernetes (see lab/kubernetes.py), besides
        all further minors that are built; ``minor`` is what its new inventory names, ``virtual`` whether they are
        virtual machines. When it fails or is interrupted, a lab that was not there before is gone again.
        Raises UsageError when this machine can't have a lab.
        """
        check_prerequisites()
        if virtual:
            qemu.check_prerequisites()
        root = image.ensure(self.places.cache, say)
        sets = (programs, *kubernetes.built_further(self.places.cache)) if programs else ()
        parts = Parts(root, sets, disk.ensure(self.places.cache, sets, say) if virtual else None)
        with self.locked(), hold(parts.folders) as held:
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
                if virtual != bool(record.disk):
                    hint = f"inv lab.down --name {self.name} takes it down"
                    raise UsageError(f"the lab {self.name} is up with machines of the other backend", hint=hint)
                return self._complete(record, nodes, say, step, minor)
            with self.undone_on_failure():
                return self._complete(self._found(parts, folder, number, held, say), nodes, say, step, minor)

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Take the lab away when the block fails or is interrupted."""
        try:
            yield
        except BaseException:
            self._remove()
            raise

    @contextmanager
    def begin(self, parts: Parts, folder: Path | None, number: int = 0) -> Iterator[tuple[Record, socket.socket]]:
        """The beginnings of a new lab: its folder, number (``number`` if it is free), key. Hold ``locked`` meanwhile.

        The socket is what reserves the number: a process of the lab must inherit it before the block ends.
        """
        # The numbers of this user's labs that are down stay theirs: inventories outside the labs' state name them.
        reserved = (record.number for lab in all_labs(self.places) if lab.name != self.name and (record := lab.record))
        number, claim = network.claim_number(network.claim, reserved, number)
        with claim:
            remove_tree(self.folder)
            place = (folder or self.folder / "workspace").resolve()
            record = Record.begun(number, place, parts)
            self.write(record)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.name}", "-f", self.key])
            yield record, claim

    def _found(
        self, parts: Parts, folder: Path | None, number: int, held: Sequence[int], say: Callable[[str], None]
    ) -> Record:
        with self.begin(parts, folder, number) as (record, claim):
            assert parts.image
            if parts.disk:
                qemu.choose_accelerator(self.folder, parts.disk, say)
            layer.make(self.folder / "layer", parts.image, with_kubernetes=bool(parts.programs))
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
        machines = [record.machine(self.folder, record.number, index) for index in wanted]
        public = Path(f"{self.key}.pub").read_text().strip()
        layers = (self.folder / "layer", *record.layers)

        def start(machine: Machine) -> None:
            if machine.index not in record.nodes:
                machine.kill()
                machine.create(public)
            step(machine.name, "starting")
            machine.start(layers)
            step(machine.name, "running")

        _start_all(machines, start)
        place = Path(record.workspace)
        hosts = workspace.hosts(wanted, public if record.disk else None)
        lacking = workspace.write(place, record.number, hosts, self.key, minor=minor)
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
            Container(self.folder, 0, int(name.removeprefix("node"))).clear()
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
        record.write(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other tasks from changing this lab meanwhile; raises UsageError when one is at it."""
        with lock(self._lock_file, f"changing the lab {self.name}"):
            yield


def _start_all(machines: Sequence[Machine], start: Callable[[Machine], None]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        starts = {machine: pool.submit(start, machine) for machine in machines}
        try:
            for started in starts.values():
                started.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # A machine that is off is no longer waited for; one may be about to be switched on.
            while off := [machine for machine, started in starts.items() if not started.done()]:
                for machine in off:
                    machine.kill()
                wait(starts.values(), timeout=0.2)
            raise


def _status(machine: Machine) -> MachineStatus:
    running = machine.running
    system = ""
    if running:
        with suppress(subprocess.TimeoutExpired):  # a virtual machine that starts or hangs
            system = machine.execute(["readlink", "-f", "/run/current-system"], seconds=10).stdout.strip()
    ssh = f"{network.operator_address(machine.number, machine.index)}:{network.SSH_PORT}"
    state = "running" if machine.ssh_reachable else "unreachable" if running else "off"
    return MachineStatus(machine.name, state, ssh, network.peer_address(machine.index), system)


def all_labs(places: Places) -> list[Lab]:
    """Every lab of this user, also an unfinished one."""
    folders = sorted(places.state.iterdir()) if places.state.is_dir() else []
    return [Lab(places, folder.name) for folder in folders if folder.is_dir()]


def check_prerequisites() -> None:
    """Raises UsageError when this machine can't have a lab: not root, or programs missing."""
    if os.geteuid() != 0:
        raise UsageError("the lab needs root", hint="run the same command as root")
    missing = needed_here()
    if missing:
        raise UsageError(f"the lab needs {', '.join(missing)}", hint="apt-get install systemd-container iproute2")
