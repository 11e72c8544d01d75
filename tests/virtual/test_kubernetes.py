"""Whether Kubernetes runs on machines with a kernel of their own: cgroup v2, WireGuard, br_netfilter, a disk.

Very long where QEMU has to translate: `make test-minors` runs it, or `pytest -m '' tests/virtual/test_kubernetes.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import LabCluster, programs

from .conftest import MakeVirtual, all_is_of_the_kernel, deploy

__all__ = ["programs"]
pytestmark = pytest.mark.long
SECONDS = 3600


@pytest.fixture(scope="module")
def cluster(make_virtual: MakeVirtual, programs: Path) -> Iterator[LabCluster]:
    """Two virtual machines that run what the workspace holds."""
    with make_virtual("kubernetes", 2, programs) as up:
        yield LabCluster(deploy(up, SECONDS))


def test_every_node_is_ready(cluster: LabCluster) -> None:
    expected = {f"{node}.k8s.internal": True for node in cluster.nodes}
    cluster.eventually("every node Ready", lambda: cluster.ready() == expected, SECONDS)
    for node in cluster.nodes:
        all_is_of_the_kernel(cluster.operator, node)
        # The kubelet refuses version 1 from 1.35 on.
        assert cluster.operator.say(node, "stat", "--file-system", "--format=%T", "/sys/fs/cgroup") == "cgroup2fs"


def test_the_smoke_test_passes(cluster: LabCluster) -> None:
    patience = ("--timeout", str(SECONDS), "--rollout", str(SECONDS // 2))
    found = {row["check"]: row for row in json.loads(cluster.operator.done("cluster.smoke", "--json", *patience))}
    assert {row["result"] for row in found.values()} <= {"ok", "skipped"}
    assert found["network.service"]["result"] == found["dns.services"]["result"] == "ok"
