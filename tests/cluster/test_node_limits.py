"""Proves on real nodes that a plain pod is confined, that what is reserved holds, that no kubelet changes its role,
and that no machine restarts or powers off before its pods have ended.
"""

import json
import re
from datetime import datetime, timedelta

import pytest

from lab.machine import Machine
from tests.cluster.conftest import LabCluster, is_ready, pod
from tests.cluster.test_security import as_node

NAMESPACE, SHUTDOWN = "test-limits", "test-shutdown"
LOGIND = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager", "PrepareForShutdown")
ANNOUNCE = ("busctl", "emit", *LOGIND, "b", "true")
"""What logind sends before a machine restarts or powers off."""
ROLE = "node-restriction.kubernetes.io/role"


def test_a_plain_pod_is_confined(cluster: LabCluster) -> None:
    with cluster.namespace(NAMESPACE, wait=False):
        made = pod("plain", "node2")
        made["metadata"]["namespace"] = NAMESPACE
        cluster.apply(made)
        cluster.eventually("Ready", lambda: all(map(is_ready, cluster.get("-n", NAMESPACE, "pods")["items"])))
        status = cluster.inside(NAMESPACE, "plain", "cat", "/proc/self/status").stdout
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        uid = cluster.get("-n", NAMESPACE, "pod", "plain")["metadata"]["uid"].replace("-", "_")
        find = f"cat $(find /sys/fs/cgroup -path '*{uid}*.slice/pids.max')"
        assert cluster.machine("node2").check("sh", "-c", find).split() == ["4096"]


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_reserved_memory_is_not_for_pods(node: str, cluster: LabCluster) -> None:
    name = f"{node}.k8s.internal"
    config = json.loads(cluster.kubectl("get", "--raw", f"/api/v1/nodes/{name}/proxy/configz"))["kubeletconfig"]
    assert (config["seccompDefault"], config["podPidsLimit"]) == (True, 4096)
    status = cluster.get("node", name)["status"]
    kept = [config[part]["memory"] for part in ("kubeReserved", "systemReserved")]
    kept.append(config["evictionHard"]["memory.available"])
    whole, left = (int(status[part]["memory"].removesuffix("Ki")) for part in ("capacity", "allocatable"))
    assert whole - left == sum(int(part.removesuffix("Mi")) for part in kept) * 1024


def test_a_kubelet_cannot_change_its_role(cluster: LabCluster) -> None:
    cluster.machine("node1").check("systemctl", "start", "kube-node-roles")
    found = {item["metadata"]["name"]: item["metadata"]["labels"].get(ROLE) for item in cluster.get("nodes")["items"]}
    assert found == {"node1.k8s.internal": "primary", "node2.k8s.internal": "worker"}
    for change in (f"{ROLE}=primary", f"{ROLE}-", "node-role.kubernetes.io/control-plane="):
        words = ("label", "--overwrite", "--dry-run=server", "node", "node2.k8s.internal", change)
        assert "is not allowed to modify labels" in as_node(cluster, "node2", *words)


def test_a_node_that_joins_again_gets_its_role(cluster: LabCluster) -> None:
    cluster.kubectl("label", "node", "node2.k8s.internal", f"{ROLE}-")
    cluster.machine("node1").check("systemctl", "start", "kube-node-roles")
    assert cluster.get("node", "node2.k8s.internal")["metadata"]["labels"][ROLE] == "worker"


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_machine_restarts_after_its_pods_have_ended(node: str, cluster: LabCluster) -> None:
    machine = cluster.machine(node)
    delays = machine.check("systemd-inhibit", "--list", "--no-pager", "--no-legend")
    assert re.search(r"^kubelet +0 root .* shutdown +Kubelet needs time .* delay$", delays, re.MULTILINE), delays
    ask = ("busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1")
    assert machine.check(*ask, "org.freedesktop.login1.Manager", "InhibitDelayMaxUSec").split() == ["t", "45000000"]


def announcements(cluster: LabCluster) -> int:
    """How often the kubelet of node2 has noticed a shutdown."""
    items = cluster.get("events", "--field-selector=reason=Shutdown,involvedObject.name=node2.k8s.internal")["items"]
    return sum(item.get("count") or 1 for item in items if item["message"].endswith("shutdown event"))


def test_a_machine_powers_off_after_its_pods_in_order(cluster: LabCluster) -> None:
    """The critical pod ends last. A shutdown that another user than root announces is not believed."""
    before, machine = announcements(cluster), cluster.machine("node2")
    with cluster.namespace(SHUTDOWN, wait=False):
        for name, priority in (("plain", {}), ("critical", {"priorityClassName": "system-node-critical"})):
            script = "trap 'sleep 2; echo ended; exit 0' TERM; sleep 86400 & wait"
            made = pod(name, "node2", "sh", "-c", script, **priority, terminationGracePeriodSeconds=20)
            made["metadata"]["namespace"] = SHUTDOWN
            cluster.apply(made)
        cluster.eventually("Ready", lambda: all(map(is_ready, cluster.get("-n", SHUTDOWN, "pods")["items"])))
        machine.check("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *ANNOUNCE)
        machine.check("systemctl", "poweroff")
        try:
            cluster.eventually("reported", lambda: not cluster.ready()["node2.k8s.internal"])
            cluster.eventually("off", lambda: not machine.running)
            plain, critical = (ended(machine, name) for name in ("plain", "critical"))
        finally:
            machine.stop()
            machine.start(cluster.operator.lab.start_layers())
            cluster.eventually("Ready", lambda: all(cluster.ready().values()))
    assert critical - plain >= timedelta(seconds=1)
    assert announcements(cluster) == before + 1


def ended(machine: Machine, name: str) -> datetime:
    """When a pod had ended, by its log on the disk of the machine."""
    (log,) = (machine.folder / "upper/var/log/pods").glob(f"{SHUTDOWN}_{name}_*/main/0.log")
    (line,) = (line for line in log.read_text().splitlines() if line.endswith(" ended"))
    return datetime.fromisoformat(line.split()[0])
