"""Labs for the tests of this tier: state of their own, names of their own, always taken down."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.cluster import Lab, check_prerequisites
from lab.places import Places
from smallkube.core.errors import UsageError
from tests.conftest import require
from tests.lab.operating import Operator


@dataclass(frozen=True)
class Up:
    """A lab that is up, and its workspace."""

    lab: Lab
    workspace: Path

    def ssh(self, node: str, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run a command over SSH as the operator does: only the machine's own host key is accepted."""
        machine = self.lab.machine(node)
        host = next(status.ssh for status in self.lab.status() if status.node == node).rsplit(":", 1)
        known = self.workspace / f"known-{node}"
        known.write_text(f"[{host[0]}]:{host[1]} {machine.host_key}\n")
        options = ["-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
        options += ["-o", "BatchMode=yes", "-i", str(self.workspace / ".smallkube/ssh_key"), "-p", host[1]]
        argv = ["ssh", *options, f"{user}@{host[0]}", *command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


MakeLab = Callable[[str, int], Up]


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The user's own image cache, but labs of these tests only."""
    try:
        check_prerequisites()
    except UsageError as error:
        require("lab", False, str(error))
    return Places(Places.find(os.environ).cache, tmp_path_factory.mktemp("labs"))


@contextmanager
def made(places: Places, name: str, nodes: int, *, virtual: bool = False, programs: Path | None = None) -> Iterator[Up]:
    """A lab of this name while the block runs, of containers or ``virtual`` machines, which have these ``programs``."""
    lab = Lab(places, f"{name}-{os.getpid()}")
    try:
        yield Up(lab, lab.up(nodes, None, lambda _text: None, lambda _node, _text: None, programs, virtual=virtual))
    finally:
        lab.down()


@pytest.fixture(scope="session")
def two_nodes(places: Places) -> Iterator[Up]:
    """A lab of two machines that the tests of a session share; what one changes there it must undo."""
    with made(places, "shared", 2) as up:
        yield up


@pytest.fixture(scope="session")
def two_deployed(places: Places) -> Iterator[Operator]:
    """An operator whose two machines the files of tests share, each of which deploys what the workspace holds first."""
    with made(places, "deployed", 2) as up:
        operator = Operator(up.lab, up.workspace)
        for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",)):
            operator.done(*words)
        yield operator


@pytest.fixture(scope="module")
def deployed(two_deployed: Operator) -> Operator:
    """Two machines that run what the workspace holds; faults that a test puts in them it must undo."""
    two_deployed.deploy()
    return two_deployed
