"""Proves that a machine of the lab is also a virtual machine with kernel and disk of its own, which takes a deploy."""

import platform
from collections.abc import Iterator

import pytest

from tests.lab.conftest import Up

from .conftest import MakeVirtual, all_is_of_the_kernel, deploy


@pytest.fixture(scope="module")
def virtual(make_virtual: MakeVirtual) -> Iterator[Up]:
    with make_virtual("one", 1) as up:
        yield up


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
        written = node1.execute(["dd", "if=/dev/zero", "of=/more", "bs=1M", "count=64"])
        assert "No space left on device" in written.stderr
    finally:
        node1.check("rm", "/fill", "/more")


def test_it_runs_what_is_deployed(virtual: Up) -> None:
    operator = deploy(virtual)
    all_is_of_the_kernel(operator, "node1")
    operator.done("etcd.status")


def test_udev_leaves_the_addresses_of_pods(virtual: Up) -> None:
    node1 = virtual.lab.machine("node1")
    node1.check("ip", "link", "add", "veth1a2b3c4d", "type", "veth", "peer", "other")
    node1.check("udevadm", "settle")
    # NET_ADDR_RANDOM, and NET_ADDR_SET, which shows that udev has come to them (linux/netdevice.h).
    for name, kind in {"veth1a2b3c4d": "1", "other": "3"}.items():
        assert node1.check("cat", f"/sys/class/net/{name}/addr_assign_type").strip() == kind
