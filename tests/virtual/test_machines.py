"""Proves that with two virtual machines the tunnel, a rollback after a hard reset and a reboot are the real ones.

Long, because QEMU may have to translate: `make test-minors` runs it, or `pytest -m '' tests/virtual`.
"""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import processes, qemu
from lab.machine import HUB
from smallkube.core.errors import SmallkubeError
from tests.lab.conftest import Up
from tests.lab.operating import Operator, await_

from .conftest import SECONDS, MakeVirtual, all_is_of_the_kernel, deploy

pytestmark = pytest.mark.long
NODES = ("node1", "node2")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SLOW = 'system.activationScripts.slow.text = "touch /run/slow; while [ -e /run/slow ]; do sleep 0.1; done";'


@pytest.fixture(scope="module")
def virtual(make_virtual: MakeVirtual) -> Iterator[Up]:
    """Two virtual machines."""
    with make_virtual("two", 2) as up:
        yield up


@pytest.fixture(scope="module")
def deployed(virtual: Up) -> Operator:
    """Both run what the workspace holds."""
    return deploy(virtual)


def boot_id(operator: Operator, node: str) -> str:
    return operator.say(node, "cat", BOOT_ID)


def test_virtual_machines_are_within_the_labs_network(virtual: Up) -> None:
    (hub,) = processes.find(virtual.lab.folder, HUB)
    here, theirs = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", hub.pid))
    assert here != theirs
    for machine in virtual.lab.machines:
        assert machine.init and Path(f"/proc/{machine.init}/ns/net").readlink() == theirs
        assert virtual.ssh(machine.name, "hostname").stdout.strip() == machine.name
        assert machine.check("ip", "route", "show", "default") == ""
    assert [status.state for status in virtual.lab.status()] == ["running", "running"]


def test_commands_need_no_network_and_run_side_by_side(virtual: Up) -> None:
    node2 = virtual.lab.machine("node2")
    node2.check("ip", "link", "set", "host0", "down")
    try:
        assert not node2.ssh_reachable
        many = qemu.COMMANDS_AT_ONCE + 2
        with ThreadPoolExecutor(many) as pool:
            assert list(pool.map(lambda number: node2.check("echo", str(number)), range(many))) == [
                f"{number}\n" for number in range(many)
            ]
        text = "x" * 300_000
        assert node2.check("cat", stdin=text) == text
        gone = node2.execute(["sh", "-c", "echo out; echo err >&2; exit 7"])
        assert (gone.returncode, gone.stdout, gone.stderr) == (7, "out\n", "err\n")
        with pytest.raises(subprocess.TimeoutExpired):
            node2.execute(["sleep", "4321"], seconds=3)
        await_(
            "the end of a command whose caller ended", lambda: node2.execute(["pgrep", "-f", "sleep 432[1]"]).returncode
        )
    finally:
        node2.check("ip", "link", "set", "host0", "up")
    await_("the network", lambda: node2.ssh_reachable)


def test_the_kernels_wireguard_carries_full_sized_packets(deployed: Operator) -> None:
    found = json.loads(deployed.done("net.check", "--json"))
    assert found and not [each for each in found if each.get("result") not in (None, "ok")], found
    for node in NODES:
        all_is_of_the_kernel(deployed, node)


def test_a_hard_reset_before_the_confirmation_rolls_back(deployed: Operator) -> None:
    before = deployed.runs("node2"), boot_id(deployed, "node2")
    with deployed.extra("node2", SLOW):
        deploying = deployed.start("deploy", "--json", "--node", "node2", "--confirm-timeout", str(SECONDS))
        # One command that waits there: asked again and again, the machine would do little else under TCG.
        begun = ["sh", "-c", "until [ -e /run/slow ]; do sleep 1; done"]
        assert deployed.lab.machine("node2").execute(begun, seconds=SECONDS).returncode == 0
        deployed.restart("node2")
        report = deployed.reports(deployed.end(deploying), 1)["node2"]
    assert report["outcome"] == "rolled back", report
    assert "the machine was restarted before it was confirmed" in report["reason"]
    assert (deployed.runs("node2"), deployed.boots("node2")) == (before[0], before[0])
    assert boot_id(deployed, "node2") != before[1]
    assert deployed.leftovers("node2") == ""


def test_a_reboot_starts_the_kernel_anew(deployed: Operator) -> None:
    node1, before = deployed.lab.machine("node1"), boot_id(deployed, "node1")
    process, system = node1.init, deployed.runs("node1")
    node1.execute(["systemctl", "reboot"])

    def is_back() -> bool:
        now = node1.execute(["cat", BOOT_ID])  # which fails when the machine goes down meanwhile
        return now.returncode == 0 and now.stdout.strip() != before and node1.ssh_reachable

    await_("another boot", is_back, SECONDS)
    assert (node1.init, deployed.runs("node1")) == (process, system)


def test_a_virtual_machine_shuts_down_in_order(virtual: Up) -> None:
    node2 = virtual.lab.machine("node2")
    node2.stop(seconds=SECONDS)
    assert [status.state for status in virtual.lab.status()] == ["running", "off"]
    assert "Power down" in node2.console.read_text(errors="replace")
    with pytest.raises(SmallkubeError, match="node2: the machine is off"):
        node2.check("true")
