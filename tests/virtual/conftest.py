"""Virtual machines of QEMU for the tests of this tier."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab import qemu
from lab.places import Places
from smallkube.core.errors import UsageError
from tests.conftest import require
from tests.lab.conftest import Up, made, places
from tests.lab.operating import Operator

__all__ = ["places"]
SECONDS = 1800
"""For a task or a start where QEMU has no KVM and shares the cores with other tests."""
MakeVirtual = Callable[..., AbstractContextManager[Up]]


@pytest.fixture(scope="session")
def make_virtual(places: Places) -> MakeVirtual:
    """Makes a lab of this name and so many virtual machines, for a block; with ``programs`` of Kubernetes."""
    try:
        qemu.check_prerequisites()
    except UsageError as error:
        require("virtual", False, str(error))

    @contextmanager
    def make(name: str, nodes: int, programs: Path | None = None) -> Iterator[Up]:
        with made(places, name, nodes, virtual=True, programs=programs) as up:
            yield up

    return make


def deploy(up: Up, seconds: int = SECONDS) -> Operator:
    """Who has deployed what the workspace holds to all machines."""
    operator = Operator(up.lab, up.workspace, seconds=seconds)
    for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",)):
        operator.done(*words)
    assert set(operator.outcomes("--confirm-timeout", str(seconds)).values()) == {"deployed"}
    return operator


def all_is_of_the_kernel(operator: Operator, node: str) -> None:
    """Nothing on ``node`` stands in for what a container's kernel may lack."""
    assert "wireguard" in operator.say(node, "ip", "-details", "link", "show", "wgkube")
    assert operator.lab.machine(node).execute(["pgrep", "wireguard-go"]).returncode == 1
    assert operator.say(node, "cat", "/proc/sys/net/bridge/bridge-nf-call-iptables") == "1"
    report = operator.lab.machine(node).report()
    assert (report["wireguard"], report["kernel"]) == ([], [])
