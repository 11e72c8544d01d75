"""Proves with etcd 3.6 under real Kubernetes that a backup brings a destroyed cluster back: the same objects, the same
identities, clients that list anew, pods that ran on; and that the state of a cluster is told as it is.
"""

import json
from typing import Any

from lab import kubernetes
from tests.cluster.conftest import LabCluster, pod

CTL = "etcdctl --endpoints unix:///run/etcd/grpc --command-timeout 10s"
NAMESPACE = "test-restore"


def identities(cluster: LabCluster) -> dict[str, str]:
    """UIDs of what must never be made anew."""
    items = [cluster.get("namespace", "kube-system"), *cluster.get("nodes")["items"]]
    items += cluster.get("-n", NAMESPACE, "secrets,configmaps,pods")["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in items}


def test_a_destroyed_etcd_is_restored_with_the_cluster(cluster: LabCluster) -> None:
    primary = cluster.machine("node1")
    with cluster.namespace(NAMESPACE):
        made = pod("runs-on", "node2")
        made["metadata"]["namespace"] = NAMESPACE
        cluster.apply(made)
        cluster.kubectl("-n", NAMESPACE, "create", "secret", "generic", "kept", "--from-literal=a=b")
        cluster.eventually("it runs", lambda: cluster.inside(NAMESPACE, "runs-on", "true").returncode == 0)
        before = identities(cluster)
        revision = json.loads(primary.check("sh", "-c", f"{CTL} get x --write-out json"))["header"]["revision"]
        cluster.operator.done("etcd.backup")
        primary.check("sh", "-c", "systemctl stop kube-apiserver etcd; rm -rf /var/lib/etcd/member")
        cluster.operator.done("etcd.restore", "--yes")
        assert identities(cluster) == before
        watched = primary.check("sh", "-c", f"timeout 20 {CTL} watch --prefix /registry --rev {revision} 2>&1 || :")
        assert "required revision has been compacted" in watched
        cluster.eventually("all Ready", lambda: all(cluster.ready().values()))
        assert cluster.get("-n", NAMESPACE, "secret", "kept")["data"] == {"a": "Yg=="}
        found = cluster.get("-n", NAMESPACE, "pod", "runs-on")["status"]["containerStatuses"][0]
        assert found["restartCount"] == 0
        primary.check("sh", "-c", "rm -rf /var/lib/etcd.before-*")


def state(cluster: LabCluster, status: int) -> dict[str, Any]:
    done = cluster.operator.inv("cluster.status", "--json")
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_status_reports_the_state_of_the_cluster(cluster: LabCluster) -> None:
    cluster.operator.done("etcd.backup")
    found = state(cluster, 0)
    assert [(row["node"], row["ready"], row["tunnel"]) for row in found["nodes"]] == [
        ("node1", "Ready", "1 of 1"),
        ("node2", "Ready", "1 of 1"),
    ]
    assert found["problems"] == []
    assert found["last_backup"]["cluster"] == "lab"
    primary = cluster.machine("node1")
    primary.check("systemctl", "stop", "kube-apiserver")
    try:
        down = state(cluster, 1)
    finally:
        primary.check("systemctl", "start", "kube-apiserver")
    assert "the API server does not answer" in down["problems"]
    assert (down["api"], down["nodes"][0]["ready"]) == ("", "?")
    assert down["etcd"]["alarms"] == []
    cluster.eventually("the API", lambda: cluster.ask("get", "--raw", "/readyz").returncode == 0)


def test_an_upgrade_is_judged_by_what_runs(cluster: LabCluster) -> None:
    said = json.loads(cluster.operator.done("cluster.upgrade-check", "--json"))
    assert said["runs"].startswith(f"v{kubernetes.MINOR}.")
    file = cluster.operator.workspace.inventory_file
    text = file.read_text()
    file.write_text(text.replace(f'kubernetes: "{kubernetes.MINOR}"', 'kubernetes: "1.34"'))
    try:
        refused = cluster.operator.inv("cluster.upgrade-check", "--json")
    finally:
        file.write_text(text)
    assert refused.returncode == 1
    assert "no rollback to 1.34" in refused.stdout
