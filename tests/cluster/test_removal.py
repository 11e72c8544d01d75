"""Proves that a healthy node leaves the cluster with its pods moved, that one that is off does too, and that a machine
that is reset has nothing of the cluster any more.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import LabCluster, MakeCluster, pod

REPLICAS = 2


@pytest.fixture(scope="module")
def three(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    with make_cluster("removal", 3) as made:
        yield made


def deployment() -> dict[str, Any]:
    template = pod("moves", "node3")
    del template["spec"]["nodeName"], template["spec"]["tolerations"]
    labels = {"app": "moves"}
    spec = {"replicas": REPLICAS, "selector": {"matchLabels": labels}}
    spec["template"] = {"metadata": {"labels": labels}, "spec": {**template["spec"], "restartPolicy": "Always"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "moves"}, "spec": spec}


def where(cluster: LabCluster) -> set[str]:
    """The nodes of the pods that run."""
    items = [item for item in cluster.get("pods")["items"] if item["status"]["phase"] == "Running"]
    return {item["spec"]["nodeName"].partition(".")[0] for item in items if "deletionTimestamp" not in item["metadata"]}


def test_a_healthy_node_leaves_and_its_machine_is_reset(three: LabCluster) -> None:
    operator, machine = three.operator, three.machine("node3")
    ssh = operator.node("node3").ssh
    three.apply(deployment())
    three.eventually("pods on both workers", lambda: where(three) == {"node2", "node3"})
    steps = json.loads(operator.done("nodes.remove", "node3", "--dry-run", "--json"))
    assert [step.split()[0] for step in steps] == ["drain", "remove", "delete"]
    assert json.loads(operator.done("nodes.remove", "node3", "--yes", "--json"))["node_object"] == "deleted"
    assert set(three.ready()) == {"node1.k8s.internal", "node2.k8s.internal"}
    three.eventually("all pods on node2", lambda: where(three) == {"node2"})
    for words in (("keys.generate",), ("nix.render",), ("deploy",)):
        operator.done(*words)
    reset = ("nodes.reset", "--node", "node3", "--ssh-host", ssh.host, "--port", str(ssh.port), "--yes", "--json")
    done = json.loads(operator.done(*reset))
    assert (done["left"], "kubelet.service" in done["stopped"]) == ([], True)
    for folder in ("kubelet", "containers", "crio", "cni"):
        assert machine.execute(["sh", "-c", f"ls -A /var/lib/{folder} | grep ."]).returncode == 1
    assert "kubepods" not in machine.check("sh", "-c", "cat /proc/[0-9]*/cgroup")
    assert "kube" not in machine.check("nft", "list", "tables")
    operator.done("deploy.status")


def test_a_node_that_is_off_leaves_without_waiting(three: LabCluster) -> None:
    machine = three.machine("node2")
    machine.stop()
    three.eventually("node2 is not Ready", lambda: not three.ready()["node2.k8s.internal"])
    ended = three.operator.inv("nodes.remove", "node2", "--yes", "--timeout", "10")
    assert ended.returncode == 0, ended.stderr
    assert set(three.ready()) == {"node1.k8s.internal"}
    three.eventually("its pods are gone", lambda: "node2" not in where(three))
