"""Every task that needs Kubernetes, under strace, the machines watched; see tests/lab/test_secret_leaks.py."""

from collections.abc import Iterator

import pytest

from tests import machine_leaks
from tests.cluster.conftest import LabCluster
from tests.conftest import require
from tests.leaks import ON_CLUSTER
from tests.machine_leaks import WatchedOperator


@pytest.fixture(scope="module")
def watched(cluster: LabCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedOperator]:
    """The shared cluster, with a backup, which an upgrade demands."""
    require("cluster", machine_leaks.needed(), "strace, with the right to trace, and a C compiler")
    cluster.operator.done("etcd.backup")
    with WatchedOperator(cluster.operator, tmp_path_factory.mktemp("leaks")).watching() as operator:
        yield operator
    cluster.eventually("all Ready", lambda: all(cluster.ready().values()))


def test_what_was_deployed_before_leaked_no_secret(watched: WatchedOperator) -> None:
    assert len(watched.canaries.texts) > 10
    assert [leak for witness in watched.witnesses for leak in witness.leaks()] == []


@pytest.mark.parametrize(("line", "status"), ON_CLUSTER.items(), ids=[line.split(" --")[0] for line in ON_CLUSTER])
def test_a_task_leaks_no_secret(line: str, status: int, watched: WatchedOperator) -> None:
    done = watched.run(line)
    assert done.status == status, done.stderr.read_text()
    assert watched.leaks(done) == []
