"""Proves that Kubernetes runs on kernels of their own, with control groups of version 2 alone, as its defaults demand.

Long, because QEMU may have to translate: `make test-minors` runs it, or `pytest -m '' tests/virtual`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.containers import BUSYBOX
from tests.cluster.conftest import LabCluster

from .conftest import SECONDS, MakeVirtual, deploy

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster(make_virtual: MakeVirtual, programs: Path) -> Iterator[LabCluster]:
    """Two nodes that are virtual machines."""
    with make_virtual("kubernetes", 2, programs) as up:
        yield LabCluster(deploy(up))


def test_every_node_is_ready_and_the_smoke_test_passes(cluster: LabCluster) -> None:
    expected = {f"{node}.k8s.internal": True for node in cluster.nodes}
    cluster.eventually("every node Ready", lambda: cluster.ready() == expected, SECONDS)
    for node in cluster.nodes:
        said = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}.k8s.internal/proxy/configz")
        assert json.loads(said)["kubeletconfig"]["failCgroupV1"] is True
    cluster.operator.done("cluster.smoke", "--image", BUSYBOX)
