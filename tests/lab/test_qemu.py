"""Proves that the lab's machines are also virtual machines with a kernel of their own, on which a deploy, the tunnel, a
rollback after a hard reset, a reboot and a full disk are the real ones.

Long, because QEMU may have to translate: `make test-minors` runs it, or `pytest -m '' tests/lab/test_qemu.py`.
"""

import json
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import processes, qemu
from lab.machine import HUB
from lab.places import Places
from smallkube.core.errors import SmallkubeError, UsageError
from tests.conftest import require
from tests.lab.conftest import Up, made
from tests.lab.operating import Operator, await_

pytestmark = pytest.mark.long
NODES = ("node1", "node2")
SECONDS = 900
"""For a task or a start where QEMU has no KVM and shares the cores with other tests."""
SLOW = 'system.activationScripts.slow.text = "touch /run/slow; while [ -e /run/slow ]; do sleep 0.1; done";'


@pytest.fixture(scope="module")
def virtual(places: Places) -> Iterator[Up]:
    """Two virtual machines."""
    try:
        qemu.check_prerequisites()
    except UsageError as error:
        require("lab", False, str(error))
    with made(places, "qemu", 2, virtual=True) as up:
        yield up


@pytest.fixture(scope="module")
def deployed(virtual: Up) -> Operator:
    """Both run what the workspace holds."""
    operator = Operator(virtual.lab, virtual.workspace, seconds=SECONDS)
    for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",)):
        operator.done(*words)
    assert operator.outcomes() == dict.fromkeys(NODES, "deployed")
    return operator


def boot_id(operator: Operator, node: str) -> str:
    return operator.say(node, "cat", "/proc/sys/kernel/random/boot_id")


def test_virtual_machines_are_within_the_labs_network(virtual: Up) -> None:
    (hub,) = processes.find(virtual.lab.folder, HUB)
    here, theirs = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", hub.pid))
    assert here != theirs
    for machine in virtual.lab.machines:
        assert machine.init and Path(f"/proc/{machine.init}/ns/net").readlink() == theirs
        assert virtual.ssh(machine.name, "hostname").stdout.strip() == machine.name
        assert machine.check("ip", "route", "show", "default") == ""
    assert [status.state for status in virtual.lab.status()] == ["running", "running"]


def test_a_virtual_machine_has_a_kernel_and_a_disk(virtual: Up) -> None:
    node1 = virtual.lab.machine("node1")
    assert node1.check("uname", "--kernel-release").strip() != platform.release()
    assert node1.check("stat", "--file-system", "--format=%T", "/sys/fs/cgroup").strip() == "cgroup2fs"
    assert node1.check("findmnt", "--noheadings", "--output=FSTYPE", "/").strip() == "ext4"
    assert node1.check("findmnt", "--noheadings", "--list", "--output=TARGET").find("/proc/sys/vm") < 0
    node1.check("nft", "--check", "table inet t { chain c { queue to 100; }; }")


def test_a_full_disk_is_a_disk(virtual: Up) -> None:
    node1 = virtual.lab.machine("node1")
    free, size = (int(node1.check("stat", "--file-system", f"--format={what}", "/")) for what in ("%f", "%S"))
    # ext4 gives no file the last 4096 blocks of the free ones (its s_resv_clusters).
    node1.check("fallocate", "--length", str((free - 8192) * size), "/fill")
    try:
        assert (
            "No space left on device" in node1.execute(["dd", "if=/dev/zero", "of=/more", "bs=1M", "count=64"]).stderr
        )
    finally:
        node1.check("rm", "/fill", "/more")


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
        assert "wireguard" in deployed.say(node, "ip", "-details", "link", "show", "wgkube")
        assert deployed.lab.machine(node).execute(["pgrep", "wireguard-go"]).returncode == 1
        assert deployed.say(node, "cat", "/proc/sys/net/bridge/bridge-nf-call-iptables") == "1"
        report = deployed.lab.machine(node).report()
        assert (report["wireguard"], report["kernel"]) == ([], [])


def test_a_hard_reset_before_the_confirmation_rolls_back(deployed: Operator) -> None:
    before = deployed.runs("node2"), boot_id(deployed, "node2")
    with deployed.extra("node2", SLOW):
        deploying = deployed.start("deploy", "--json", "--node", "node2", "--confirm-timeout", "600")
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
    await_("another boot", lambda: node1.ssh_reachable and boot_id(deployed, "node1") != before, SECONDS)
    assert (node1.init, deployed.runs("node1")) == (process, system)


def test_a_virtual_machine_shuts_down_in_order(virtual: Up) -> None:
    node2 = virtual.lab.machine("node2")
    node2.stop(seconds=SECONDS)
    assert [status.state for status in virtual.lab.status()] == ["running", "off"]
    assert "Power down" in node2.console.read_text(errors="replace")
    with pytest.raises(SmallkubeError, match="node2: the machine is off"):
        node2.check("true")
