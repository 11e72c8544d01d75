"""What is written down about a lab, in a file of its state folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.machine import Machine
from lab.nspawn import Container
from lab.qemu import VirtualMachine
from smallkube.core.files import write_file

FILE = "lab.json"


@dataclass(frozen=True)
class Parts:
    """The folders of the cache that a new lab's machines are made of; ``disk``: they are virtual machines.

    ``programs`` are those of Kubernetes: the set with etcd, then those of further minors (see lab/kubernetes.py).
    """

    image: Path | None = None
    programs: tuple[Path, ...] = ()
    disk: Path | None = None

    @property
    def folders(self) -> list[Path]:
        return [folder for folder in (self.image, *self.programs, self.disk) if folder]


@dataclass(frozen=True)
class Record:
    """What is written down about a lab; ``complete`` once all its machines had started.

    ``kubernetes`` is the folder with the programs of Kubernetes that its machines have, empty if they have none, and
    ``further`` those of further minors; ``disk`` the one that virtual machines start from (see lab/disk.py), empty for
    containers.
    """

    number: int
    image: str
    workspace: str
    nodes: tuple[int, ...]
    complete: bool
    kubernetes: str = ""
    further: tuple[str, ...] = ()
    disk: str = ""

    @property
    def layers(self) -> list[Path]:
        """What the machines' disks are layered over besides the lab's own layer, uppermost first."""
        folders = (self.disk,) if self.disk else (*self.further, self.kubernetes, self.image)
        return [Path(folder) for folder in folders if folder]

    @property
    def machine(self) -> type[Machine]:
        """The kind of its machines."""
        return VirtualMachine if self.disk else Container

    @classmethod
    def begun(cls, number: int, workspace: Path, parts: Parts) -> "Record":
        """That of a lab without machines yet."""
        own, *further = map(str, parts.programs or ("",))
        image, disk = str(parts.image or ""), str(parts.disk or "")
        return cls(number, image, str(workspace), (), False, own, tuple(further), disk)

    def write(self, folder: Path) -> None:
        """Write it into the lab's ``folder``."""
        write_file(folder / FILE, json.dumps(asdict(self), indent=2) + "\n")


def read(folder: Path) -> Record | None:
    """The record in the lab's ``folder``, None when there is none."""
    try:
        found = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return None
    return Record(**{**found, "nodes": tuple(found["nodes"]), "further": tuple(found.get("further", ()))})
