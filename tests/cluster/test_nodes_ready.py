"""Proves that real Kubernetes comes up from what `inv deploy` evaluated: every node Ready under its own name, with both
addresses, every unit active, none left out, and etcd reachable through its sockets only.
"""

import json
from typing import Any

import pytest

from lab.kubernetes import version
from tests.cluster.conftest import LabCluster

ROLE = "node-role.kubernetes.io/control-plane"
NOT_SERVICES_OF_OURS = ("systemd-", "dbus", "ssh")
END = ("kube-node-roles.service", "wgkube-handshakes.service")
"""Once the nodes have their labels, and the sessions of WireGuard have begun."""


def manifest(cluster: LabCluster, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.operator.say(node, "cat", "/run/current-system/manifest.json"))
    return found


def test_every_node_is_ready_under_its_own_name(cluster: LabCluster) -> None:
    nodes = {item["metadata"]["name"]: item for item in cluster.get("nodes")["items"]}
    assert set(nodes) == {"node1.k8s.internal", "node2.k8s.internal"}
    for index, (name, node) in enumerate(sorted(nodes.items()), 1):
        addresses = [entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"]
        assert addresses == [f"10.88.{index}.1", f"fd88:{index}::1"]
        assert node["status"]["nodeInfo"]["kubeletVersion"] == version()
        assert node["metadata"]["labels"]["role"] == ("primary" if index == 1 else "worker"), name
        assert (ROLE in node["metadata"]["labels"]) == (index == 1)
    taints = {
        name: [taint for taint in node["spec"].get("taints", []) if taint["key"] in (ROLE, "role")]
        for name, node in nodes.items()
    }
    primary = [{"key": ROLE, "effect": "NoSchedule"}]
    assert taints == {"node1.k8s.internal": primary, "node2.k8s.internal": []}


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_every_unit_is_active_and_none_is_left_out(cluster: LabCluster, node: str) -> None:
    machine = cluster.machine(node)
    assert machine.report()["missing"] == {}
    wanted = [
        name
        for name, unit in manifest(cluster, node)["units"].items()
        if name.endswith(".service") and unit["wantedBy"] and not name.startswith(NOT_SERVICES_OF_OURS)
    ]
    wanted = [name for name in wanted if name not in END]
    assert {"crio.service", "kubelet.service", "kube-proxy.service", "coredns.service"} <= set(wanted)
    assert ("kube-apiserver.service" in wanted) == (node == "node1")
    states = {name: machine.execute(["systemctl", "is-active", name]).stdout.strip() for name in wanted}
    assert set(states.values()) == {"active"}, states
    assert machine.check("systemctl", "list-units", "--failed", "--no-legend") == ""


def test_the_api_is_ready_with_all_its_parts(cluster: LabCluster) -> None:
    parts = cluster.kubectl("get", "--raw", "/readyz?verbose").splitlines()
    assert parts[-1] == "readyz check passed"
    assert [line for line in parts if line.startswith("[-]")] == []
    assert {"[+]etcd ok", "[+]poststarthook/rbac/bootstrap-roles ok"} <= set(parts)


def test_etcd_is_reached_through_its_sockets_only(cluster: LabCluster) -> None:
    process = cluster.operator.say("node1", "systemctl", "show", "--property=MainPID", "--value", "etcd.service")
    own, machines = f"--net=/proc/{process}/ns/net", "--net=/proc/1/ns/net"
    assert cluster.operator.say("node1", "readlink", f"/proc/{process}/ns/net") != cluster.operator.say(
        "node1", "readlink", "/proc/1/ns/net"
    )
    sockets = cluster.operator.say("node1", "nsenter", own, "cat", "/proc/net/unix").splitlines()[1:]
    names = {line.split()[7] for line in sockets if len(line.split()) > 7}
    assert not {name for name in names if name.startswith("@")}
    assert {"/run/etcd/grpc", "/run/etcd/http", "peer"} <= names
    for namespace in (own, machines):
        listening = cluster.operator.say("node1", "nsenter", namespace, "ss", "-Hlntup")
        assert "etcd" not in listening
    assert cluster.operator.say("node1", "nsenter", own, "ss", "-Hlntu") == ""


def test_the_control_plane_listens_on_one_port_only(cluster: LabCluster) -> None:
    listening = cluster.operator.say("node1", "ss", "-Hlntp").splitlines()
    ports = {
        line.split()[3].rpartition(":")[2]
        for line in listening
        if any(program in line for program in ("kube-apiserver", "kube-scheduler", "kube-controller"))
    }
    assert ports == {"6443"}


def test_the_lab_applied_the_whole_configuration(cluster: LabCluster) -> None:
    for node in cluster.nodes:
        assert cluster.machine(node).report()["unsupported"] == []
