"""Proves what `cluster.upgrade` does: the primary, then batches of workers, with a smoke test after each stage; the
first that fails ends it and says how to roll back, and the same command resumes. One version of Kubernetes is built for
CI, so that what is brought to the machines here is another change; which versions may follow which is proven in
tests/unit/test_cluster_skew.py, and the way over several minors in tests/unit/test_operation_upgrade_path.py.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab import kubernetes
from lab.containers import BUSYBOX
from tests.cluster.conftest import LabCluster, MakeCluster, ended, killed_at, pod
from tests.lab.operating import Completed

UPGRADE = ("cluster.upgrade", "--yes", "--image", BUSYBOX, "--skip", "egress")
DROP_IN = "/run/systemd/system/kube-scheduler.service.d"
BREAK = (
    f"mkdir -p {DROP_IN}; printf '[Unit]\\nConditionPathExists=/nowhere\\n' >{DROP_IN}/test.conf;"
    " systemctl daemon-reload; systemctl stop kube-scheduler"
)
"""A deploy would start again what is only stopped."""
MEND = f"rm -r {DROP_IN}; systemctl daemon-reload; systemctl start kube-scheduler"
CONTROL_ONLY = ("--skip", "pods,kubelet,network,dns,secrets,cleanup,nodes,api,etcd")


@pytest.fixture(scope="module")
def three(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    with make_cluster("upgrade", 3) as made:
        yield made


@contextmanager
def changed(cluster: LabCluster, mark: str) -> Iterator[None]:
    """A change of every machine."""
    with ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(cluster.operator.marked(node, mark))
        yield


def marks(cluster: LabCluster) -> list[str]:
    return [cluster.operator.mark(node) for node in cluster.nodes]


def stages(done: Completed) -> list[str]:
    """What the upgrade itself said that it does, each smoke test once."""
    said = [line.removeprefix("upgrade: ") for line in done.stderr.splitlines() if line.startswith("upgrade: ")]
    return [line for line in said if not line.startswith("smoke test failed")]


def test_stage_by_stage(three: LabCluster) -> None:
    with changed(three, "one"):
        steps = json.loads(three.operator.done("cluster.upgrade", "--dry-run", "--json"))
        assert marks(three) == ["", "", ""]
        done = three.operator.inv(*UPGRADE)
        assert done.returncode == 0, done.stderr
        assert marks(three) == ["one"] * 3
    each = [title for node in three.nodes for title in (f"deploy {node}", f"smoke test after {node}")]
    assert steps == ["back up etcd and verify the backup", *each]
    assert stages(done) == [*steps, "done"]
    assert len(list(three.operator.root.glob("backups/*.db.zst.age"))) == 1


def test_a_stage_whose_smoke_test_fails_is_the_last(three: LabCluster) -> None:
    primary = three.machine("node1")
    ill = ("cluster.smoke", "--only", "control.scheduler")
    primary.check("sh", "-c", BREAK)
    with changed(three, "two"):
        three.eventually("it is noticed", lambda: three.operator.inv(*ill).returncode == 1)
        done = three.operator.inv(*UPGRADE, *CONTROL_ONLY, "--settle", "5")
        assert done.returncode == 1
        assert "upgrade: smoke test failed: control.scheduler" in done.stderr
        assert marks(three) == ["two", "one", "one"]
        said = done.stderr.splitlines()[-1]
        assert "after node1 checks failed: control.scheduler" in said
        assert "inv deploy.rollback --node node1" in said and "inv etcd.restore --name lab-" in said
        primary.check("sh", "-c", MEND)
        three.eventually("it is well", lambda: three.operator.inv(*ill).returncode == 0)
        three.operator.done(*UPGRADE, "--batch", "2")
        assert marks(three) == ["two"] * 3


def test_killed_at_each_step_the_same_command_ends_it(three: LabCluster) -> None:
    mark = "killed"
    with changed(three, mark):
        for line in ("upgrade: back up", "node1: activate", "upgrade: smoke", "upgrade: deploy node2"):
            killed_at(three, line, *UPGRADE, *CONTROL_ONLY)
        again = (*UPGRADE, "--batch", "2", *CONTROL_ONLY)
        ended(three, *again)
        assert marks(three) == [mark] * 3
    three.eventually("all Ready", lambda: all(three.ready().values()))


def test_a_disruption_budget_that_blocks_is_named(three: LabCluster) -> None:
    """Nothing is begun: neither with the version that runs, nor on the way to another."""
    file, before = three.operator.workspace.inventory_file, marks(three)
    text = file.read_text()
    with three.namespace("budgets") as namespace:
        metadata = {"name": "web", "namespace": namespace}
        spec = {
            "minAvailable": 1,
            "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["w"]}]},
        }
        budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}
        one = pod("w", "node2")
        one["metadata"]["namespace"] = namespace
        three.apply(one, budget)
        path = ("-n", namespace, "poddisruptionbudget", "web")
        three.eventually("the pod counts", lambda: three.get(*path)["status"].get("currentHealthy") == 1)
        done = three.operator.inv(*UPGRADE)
        file.write_text(text.replace(f'"{kubernetes.MINOR}"', '"1.37"\n  kubernetes_nixpkgs: nixos-unstable'))
        try:
            way = three.operator.inv("cluster.upgrade-check")
        finally:
            file.write_text(text)
    assert done.returncode == way.returncode == 1
    assert "must not begin: disruption budgets: budgets/web allows no pod to be evicted now" in done.stderr
    assert "to 1.37" in way.stdout
    assert "an upgrade must not begin: disruption budgets" in way.stderr.splitlines()[-1]
    assert marks(three) == before


def test_ctrl_c_leaves_a_working_cluster(three: LabCluster) -> None:
    with changed(three, "interrupted"):
        process = three.operator.start(*UPGRADE)
        assert process.stderr
        for line in process.stderr:
            if line.startswith("upgrade: smoke"):
                break
        process.send_signal(signal.SIGINT)
        done = three.operator.end(process)
        assert done.returncode == 130, done.stderr
        three.operator.done(*UPGRADE, "--batch", "2")
        assert marks(three) == ["interrupted"] * 3
