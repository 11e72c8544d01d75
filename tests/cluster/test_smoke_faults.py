"""Proves of the smoke test what needs a fault of its own kind: that every check has something that turns it red, and
that no other goes red with it, but for those that can't be made then.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smallkube.core.workspace import Workspace
from smallkube.smoke.table import NAMES
from tests.cluster.conftest import LabCluster
from tests.cluster.test_smoke import BRIEF, BY_PODS, Fault, Found, broken, namespaces, recovered, smoke, with_outcome

WITHOUT_API = {"etcd.health", "etcd.alarms", "api.ready", "api.anonymous", "api.certificate", "cleanup.done"}
WITH_API = {*NAMES} - WITHOUT_API
ALONE = {"network.ipv6", "network.ipv4"}
"""What a pod that is the only one left can't try."""
OVERRIDE = "/run/systemd/system/{unit}.service.d/90-fault.conf"


def overridden(unit: str, text: str) -> Fault:
    """A unit of the primary with ``text`` (a shell's words for printf) added to it."""
    file = OVERRIDE.format(unit=unit)
    again = f"systemctl daemon-reload && systemctl restart {unit}"
    return Fault(
        [("node1", f"mkdir -p $(dirname {file}); {text} >{file}; {again}")],
        [("node1", f"rm -f {file}; {again}")],
        set(),
        "",
    )


def dropped(*rules: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What node2 forwards by any of ``rules`` is dropped; and mended."""
    chain = f"chain forward {{ type filter hook forward priority -300; {' '.join(f'{rule} drop;' for rule in rules)} }}"
    return [("node2", f"nft 'table inet fault {{ {chain}; }}'")], [("node2", "nft delete table inet fault")]


def judged(found: Found, failed: set[str], unreached: set[str]) -> str:
    """The messages of what failed, which must be exactly ``failed``."""
    messages = " | ".join(f"{name}: {row['detail']}" for name, row in found.items() if row["result"] != "ok")
    assert with_outcome(found, "failed") == failed, messages
    assert with_outcome(found, "not reached") == unreached, messages
    return messages


@pytest.fixture(scope="module", autouse=True)
def sound(cluster: LabCluster) -> None:
    """Whatever other tests did before."""
    recovered(cluster)


def test_paths_that_are_closed(cluster: LabCluster) -> None:
    rules = {
        "network.ipv6": 'iifname "brkube" oifname "wgkube" meta nfproto ipv6 tcp dport 8080',
        "network.ipv4": 'iifname "brkube" oifname "wgkube" meta nfproto ipv4 ct status != dnat tcp dport 8080',
        "network.api": 'iifname "brkube" oifname "wgkube" tcp dport 6443',
    }
    broken_by, mended_by = dropped(*rules.values())
    with broken(cluster, Fault(broken_by, mended_by, set(), "")):
        found = smoke(cluster, status=1)
    judged(found, {*rules}, set())
    assert all("node2 → " in found[check]["detail"] for check in rules)


def test_a_way_out_is_tried_where_one_is_named(cluster: LabCluster) -> None:
    address = cluster.operator.node("node1").peer_ip
    found = smoke(cluster, "--only", "egress", "--egress", f"{address}:22")
    assert found["egress.internet"]["result"] == "ok"
    rule = f"ip daddr {address} tcp dport 22"
    broken_by, mended_by = dropped(rule)
    with broken(cluster, Fault(broken_by, mended_by, set(), "")):
        found = smoke(cluster, "--egress", f"{address}:22", status=1)
    assert "kube-nat" in judged(found, {"egress.internet"}, set())


def test_etcd_that_is_full(cluster: LabCluster) -> None:
    quota = overridden("etcd", r"printf '[Service]\nEnvironment=ETCD_QUOTA_BACKEND_BYTES=1000000\n'")
    etcdctl = "etcdctl --endpoints unix:///run/etcd/grpc --command-timeout 10s"
    fill = f"head -c 900000 /dev/zero | {etcdctl} put smoke-fault || true"
    full = ("node1", f"{fill}; {fill}; {etcdctl} alarm list | grep NOSPACE")
    emptied = ("node1", f"{etcdctl} del smoke-fault; {etcdctl} alarm disarm")
    with broken(cluster, Fault([*quota.broken, full], [*quota.mended, emptied], set(), "")):
        cluster.eventually("the API", lambda: cluster.ask("get", "--raw", "/readyz").returncode == 0)
        found = smoke(cluster, status=1)
    messages = judged(found, {"etcd.alarms", "pods.rollout"}, {*BY_PODS, "secrets.encrypted"})
    assert "NOSPACE" in messages
    assert "defragment" in messages
    assert namespaces(cluster) == []


def test_etcd_that_is_down(cluster: LabCluster) -> None:
    stop, start = ("node1", "systemctl stop etcd"), ("node1", "systemctl start etcd")
    with broken(cluster, Fault([stop], [start], set(), "")):
        found = smoke(cluster, status=1)
    messages = judged(found, {"etcd.health", "api.ready"}, {*WITH_API, "etcd.alarms"})
    assert "inv nodes.logs etcd" in messages


def test_an_api_server_that_hangs(cluster: LabCluster) -> None:
    signal = "systemctl kill --signal={} kube-apiserver"
    stop, go_on = ("node1", signal.format("STOP")), ("node1", signal.format("CONT"))
    with broken(cluster, Fault([stop], [go_on], set(), "")):
        found = smoke(cluster, status=1)
    judged(found, {"api.ready"}, {*WITH_API, "api.anonymous", "api.certificate"})


def test_an_api_server_that_lets_anybody_ask(cluster: LabCluster) -> None:
    unit = "/etc/systemd/system/kube-apiserver.service"
    change = f"grep ^ExecStart= {unit} | sed s/anonymous-auth=false/anonymous-auth=true/"
    fault = overridden("kube-apiserver", rf"{{ printf '[Service]\nExecStart=\n'; {change}; }}")
    with broken(cluster, fault):
        recovered(cluster)
        found = smoke(cluster, status=1)
    assert "--anonymous-auth" in judged(found, {"api.anonymous"}, set())


def test_a_certificate_that_is_not_the_pinned_one(cluster: LabCluster) -> None:
    keys = cluster.operator.workspace.keys_dir
    shutil.copy(keys / "apiserver.crt", keys / "kept")
    try:
        shutil.copy(keys / "kubelet_node2.crt", keys / "apiserver.crt")
        found = smoke(cluster, status=1)
    finally:
        shutil.move(keys / "kept", keys / "apiserver.crt")
    assert "keys/apiserver.crt" in judged(found, {"api.certificate"}, set())


@contextmanager
def inventory_with(workspace: Workspace, line: str) -> Iterator[None]:
    file = workspace.inventory_file
    text = file.read_text()
    file.write_text(f"{text.rstrip()}\n{line}\n")
    try:
        yield
    finally:
        file.write_text(text)


def test_a_node_of_the_inventory_that_the_cluster_lacks(cluster: LabCluster) -> None:
    with inventory_with(cluster.operator.workspace, "  node3: {peer_ip: 192.0.2.3}"):
        found = smoke(cluster, status=1)
    messages = judged(found, {"nodes.inventory"}, set())
    assert "node3.k8s.internal is missing" in messages


def test_a_kubelet_of_another_age(cluster: LabCluster) -> None:
    patch = '{"status": {"nodeInfo": {"kubeletVersion": "v1.30.1"}}}'
    stop, start = ("node2", "systemctl stop kubelet"), ("node2", "systemctl start kubelet")
    with broken(cluster, Fault([stop], [start], set(), "")):
        cluster.kubectl("patch", "node", "node2.k8s.internal", "--subresource=status", "--patch", patch)
        found = smoke(cluster, "--only", "nodes.versions", status=1)
    assert "node2.k8s.internal has v1.30.1" in judged(found, {"nodes.versions"}, set())
    versions = "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"
    cluster.eventually("its own", lambda: "v1.30.1" not in cluster.kubectl("get", "nodes", "-o", versions))


def test_a_kubelet_that_is_stopped(cluster: LabCluster) -> None:
    stop, start = ("node2", "systemctl stop kubelet"), ("node2", "systemctl start kubelet")
    with broken(cluster, Fault([stop], [start], set(), "")):
        cluster.eventually("node2 is missed", lambda: not cluster.ready()["node2.k8s.internal"])
        found = smoke(cluster, *BRIEF, status=1)
    messages = judged(found, {"nodes.ready", "nodes.leases", "pods.rollout"}, ALONE)
    assert "inv nodes.logs kubelet" in messages


def test_a_tunnel_that_is_down_is_all_that_is_named(cluster: LabCluster) -> None:
    down = ("node2", "ip link set wgkube down")
    up = ("node2", "ip link set wgkube up && networkctl reconfigure wgkube")
    with broken(cluster, Fault([down], [up], set(), "")):
        cluster.eventually("node2 is missed", lambda: not cluster.ready()["node2.k8s.internal"])
        found = smoke(cluster, *BRIEF, status=1)
    failed = {"nodes.ready", "nodes.leases", "pods.rollout", "network.host", "network.nodeport"}
    assert "inv net.check" in judged(found, failed, ALONE)
    cluster.eventually("nothing stays", lambda: namespaces(cluster) == [])


def test_too_little_time_leaves_nothing_behind(cluster: LabCluster) -> None:
    found = smoke(cluster, "--timeout", "1", status=1)
    assert found["secrets.encrypted"]["detail"] == "--timeout 1 is over"
    cluster.eventually("nothing stays", lambda: namespaces(cluster) == [])


def test_two_runs_from_here_don_t_meet(cluster: LabCluster) -> None:
    first = cluster.operator.start("cluster.smoke", "--only", "pods.rollout")
    cluster.eventually("begun", lambda: namespaces(cluster))
    second = cluster.operator.inv("cluster.smoke")
    assert second.returncode == 2
    assert "already being done" in second.stderr
    assert cluster.operator.end(first).returncode == 0


def test_an_image_that_can_not_be_pulled_is_reported_at_once(cluster: LabCluster) -> None:
    image = "registry.invalid/none:1"
    found = smoke(cluster, "--image", image, "--pull-policy", "IfNotPresent", status=1)
    messages = judged(found, {"pods.rollout"}, {*BY_PODS})
    assert re.search(rf"no image {image} on node1.*: (ErrImagePull|ImagePullBackOff): .*registry\.invalid", messages)
    assert "name one that the nodes can get: cluster.smoke.image in inventory.yaml, or --image" in messages
    cluster.eventually("nothing stays", lambda: namespaces(cluster) == [])
