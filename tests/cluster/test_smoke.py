"""Proves that the smoke test is green on a cluster that works, and red in exactly the right places on one that does
not; and that nothing of it stays, whatever ends it.
"""

import json
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lab.containers import BUSYBOX
from smallkube.inventory import edit
from smallkube.smoke.table import NAMES
from tests.cluster.conftest import LabCluster

IN_THE_LAB = ("--image", BUSYBOX, "--pull-policy", "Never", "--rollout", "60")
SELECTOR = "--selector=app.kubernetes.io/managed-by=smallkube-smoke"
BY_PODS = {
    "kubelet.logs",
    "kubelet.exec",
    *(f"network.{name}" for name in ("ipv6", "ipv4", "service", "hairpin", "hostnetwork", "api", "host", "nodeport")),
    "dns.services",
    "dns.nodes",
}
Found = dict[str, dict[str, Any]]


def smoke(cluster: LabCluster, *words: str, status: int = 0) -> Found:
    given = dict(zip(IN_THE_LAB[::2], IN_THE_LAB[1::2], strict=True))
    lab = [word for flag, value in given.items() if flag not in words for word in (flag, value)]
    done = cluster.operator.inv("cluster.smoke", "--json", *lab, *words)
    assert done.returncode == status, done.stdout + done.stderr
    return {row["check"]: row for row in json.loads(done.stdout)}


def outcome_of(row: dict[str, Any]) -> str:
    return str(row["result"]) if row["reached"] else "not reached"


def with_outcome(found: Found, outcome: str) -> set[str]:
    return {name for name, row in found.items() if outcome_of(row) == outcome}


def namespaces(cluster: LabCluster) -> list[str]:
    return cluster.kubectl("get", "namespaces", SELECTOR, "--output=name").split()


def test_all_is_green_and_nothing_stays(cluster: LabCluster, tmp_path: Path) -> None:
    found = smoke(cluster, "--junit", str(tmp_path / "report.xml"))
    assert tuple(found) == NAMES
    assert with_outcome(found, "skipped") == {"egress.internet"}
    assert with_outcome(found, "ok") == set(NAMES) - {"egress.internet"}
    assert namespaces(cluster) == []
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(NAMES)), "0", "1")


@dataclass(frozen=True)
class Fault:
    """What is broken and mended on which node, what is red then (``perhaps`` this too), and what the message says."""

    broken: Sequence[tuple[str, str]]
    mended: Sequence[tuple[str, str]]
    failed: set[str]
    says: str
    not_reached: frozenset[str] = frozenset()
    words: Sequence[str] = ()
    perhaps: frozenset[str] = frozenset()


CLIENTS_RUN = ["systemctl", "is-active", "kube-scheduler", "kube-controller-manager"]
BRIEF = ("--rollout", "20")


def stopped(node: str, unit: str, failed: set[str], says: str, not_reached: Sequence[str] = ()) -> Fault:
    stop, start = (node, f"systemctl stop {unit}"), (node, f"systemctl start {unit}")
    words = BRIEF if "pods.rollout" in failed else ()
    return Fault([stop], [start], failed, says, frozenset(not_reached), words)


def restart_coredns(index: int) -> str:
    """Until it answers for the names that it has from a file; it waits a while for the API server before."""
    asked = f"dig +short +time=1 +tries=1 @fd88:{index}::1 node1.k8s.internal AAAA | grep -q fd88:"
    return f"systemctl restart coredns; timeout 60 sh -c 'until {asked}; do sleep 0.2; done'"


CHAIN = "chain in { type filter hook input priority -300; tcp dport 10250 reject with tcp reset; }"
BLOCK = f"nft 'table inet fault {{ {CHAIN}; }}'"
CONFIGURATION = "/run/agenix/EncryptionConfiguration.yaml"
IDENTITY_FIRST = r"sed -i 's/^  - secretbox:/  - identity: {}\n  - secretbox:/; $d'"
FAULTS = {
    "kube-proxy stopped": stopped(
        "node2",
        "kube-proxy",
        {f"network.{name}" for name in ("service", "hairpin", "hostnetwork", "host", "nodeport")},
        "kube-proxy",
    ),
    "CoreDNS stopped": stopped(
        "node2", "coredns", {"dns.services", "dns.nodes", "dns.servers", "dns.names"}, "coredns"
    ),
    "CoreDNS without rights": Fault(
        [
            ("node1", "kubectl delete clusterrolebinding system:coredns"),
            *((f"node{index}", restart_coredns(index)) for index in (1, 2)),
        ],
        [
            ("node1", "systemctl restart kube-activation"),
            *((f"node{index}", restart_coredns(index)) for index in (1, 2)),
        ],
        {"dns.services", "dns.servers"},
        "nix/addons/coredns.yaml",
        # Each time that it can't begin to watch, CoreDNS may leave other questions waiting as well.
        perhaps=frozenset({"dns.nodes", "dns.names"}),
    ),
    "kubelet port blocked": Fault(
        [("node2", BLOCK)], [("node2", "nft delete table inet fault")], {"kubelet.logs", "kubelet.exec"}, "port 10250"
    ),
    "Secrets in clear": Fault(
        [
            ("node1", f"cp -pL {CONFIGURATION} /run/kept; {IDENTITY_FIRST} {CONFIGURATION}"),
            ("node1", "systemctl restart kube-apiserver"),
        ],
        [("node1", f"cat /run/kept >{CONFIGURATION}; rm /run/kept; systemctl restart kube-apiserver")],
        {"secrets.encrypted"},
        "it begins with clear",
    ),
    "API down": stopped(
        "node1",
        "kube-apiserver",
        {"api.ready"},
        "inv nodes.logs kube-apiserver",
        [name for name in NAMES if name not in ("etcd.health", "etcd.alarms", "api.ready", "cleanup.done")],
    ),
    "image missing": Fault(
        [], [], {"pods.rollout"}, "ErrImageNeverPull", frozenset(BY_PODS), ("--image", "none:1", *BRIEF)
    ),
    "scheduler stopped": stopped(
        "node1", "kube-scheduler", {"control.scheduler", "pods.rollout"}, "kube-scheduler", sorted(BY_PODS)
    ),
    "controller manager stopped": stopped(
        "node1",
        "kube-controller-manager",
        {"control.controllers", "pods.rollout", "cleanup.done"},  # it is what empties namespaces, too
        "kube-controller-manager",
        sorted(BY_PODS),
    ),
}


def renewed(cluster: LabCluster, since: datetime) -> bool:
    """Whether each node's lease was renewed after ``since``."""
    leases = cluster.get("-n", "kube-node-lease", "leases")["items"]
    times = [datetime.fromisoformat(lease["spec"]["renewTime"]) for lease in leases]
    return len(times) == len(cluster.nodes) and min(times) > since


MISSED_A_START = """
since() { systemctl show --property=ActiveEnterTimestampMonotonic --value "$1"; }
[ "$(since kube-controller-manager)" -gt "$(since kube-apiserver)" ] || systemctl restart kube-controller-manager
"""
"""A controller manager that lived through a start of the API server begins anew.

After several of them its watches come back up to a minute late, each in its own time. While that of the nodes' leases
is missing, it calls every node not Ready after 50 s, whatever their kubelets say meanwhile; nothing shows that before.
"""


def recovered(cluster: LabCluster) -> None:
    """Until a cluster that was broken works again: clients come back to an API server each in their own time."""
    began = datetime.now(UTC)
    cluster.eventually("the API", lambda: cluster.ask("get", "--raw", "/readyz").returncode == 0)
    cluster.machine("node1").check("sh", "-c", MISSED_A_START)
    # A node is called Ready by its last word for 40 s, also when its kubelet has not found back to the API server yet.
    cluster.eventually("each kubelet's word", lambda: renewed(cluster, began))
    cluster.eventually("all Ready", lambda: (ready := cluster.ready()) and all(ready.values()))
    with cluster.namespace(f"recovered-{secrets.token_hex(4)}", wait=False) as space:
        # Its account has been made by the controller manager.
        cluster.kubectl("-n", space, "create", "service", "clusterip", "probe", "--tcp=80")

        def answers(node: str, server: str) -> bool:
            asked = ["dig", "+short", f"@{server}", f"probe.{space}.svc.k8s.internal", "A"]
            return "10.88.0." in cluster.machine(node).execute(asked).stdout

        for index, node in enumerate(cluster.nodes, 1):
            cluster.eventually(f"CoreDNS on {node}", partial(answers, node, f"fd88:{index}::1"))


CONTROL = ("etcd", "apiserver", "scheduler", "controller", "activation", "kubelet", "coredns", "wgkube")
"""What others come back to in their own time, by words of the commands that break it."""


@contextmanager
def broken(cluster: LabCluster, fault: Fault) -> Iterator[None]:
    try:
        for node, command in fault.broken:
            cluster.machine(node).check("sh", "-c", command)
        yield
    finally:
        for node, command in fault.mended:
            cluster.machine(node).check("sh", "-c", command)
        if any(word in command for _, command in fault.mended for word in CONTROL):
            recovered(cluster)


@pytest.mark.parametrize("name", FAULTS)
def test_exactly_the_right_checks_go_red(name: str, cluster: LabCluster) -> None:
    fault = FAULTS[name]
    with broken(cluster, fault):
        if name == "Secrets in clear":
            recovered(cluster)
        if not any(word in name for word in ("API", "scheduler", "manager")):
            cluster.eventually("its clients", lambda: cluster.machine("node1").execute(CLIENTS_RUN).returncode == 0)
        found = smoke(cluster, *fault.words, status=1)
    messages = " | ".join(found[check]["detail"] for check in with_outcome(found, "failed"))
    assert (with_outcome(found, "failed") - fault.perhaps, with_outcome(found, "not reached")) == (
        fault.failed,
        {*fault.not_reached},
    ), messages
    assert fault.says in messages
    cluster.eventually("nothing stays", lambda: namespaces(cluster) == [])


def test_a_node_that_the_inventory_does_not_know(cluster: LabCluster) -> None:
    file = cluster.operator.workspace.inventory_file
    text = file.read_text()
    file.write_text(edit.remove_node(text, "node2"))
    try:
        found = smoke(cluster, status=1)
    finally:
        file.write_text(text)
    assert with_outcome(found, "failed") == {"nodes.inventory"}
    assert "node2.k8s.internal is not in inventory.yaml" in found["nodes.inventory"]["detail"]


def test_only_what_is_asked_for_is_checked(cluster: LabCluster) -> None:
    assert set(smoke(cluster, "--only", "network,etcd", "--skip", "network.host")) == {
        "etcd.health",
        "etcd.alarms",
        *(f"network.{name}" for name in ("ipv6", "ipv4", "service", "hairpin", "hostnetwork", "api", "nodeport")),
    }
    assert set(smoke(cluster, "--only", "api.ready")) == {"api.ready"}


def test_kept_pods_are_swept_by_the_next_run(cluster: LabCluster) -> None:
    found = smoke(cluster, "--keep")
    kept = namespaces(cluster)
    assert len(kept) == 1
    assert kept[0].removeprefix("namespace/") in found["cleanup.done"]["detail"]
    smoke(cluster, "--only", "pods")
    cluster.eventually("nothing stays", lambda: namespaces(cluster) == [])


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGHUP, 130), (signal.SIGKILL, -9)]
)
def test_ended_in_the_middle_nothing_stays_for_long(number: int, status: int, cluster: LabCluster) -> None:
    process = cluster.operator.start("cluster.smoke", *IN_THE_LAB)
    cluster.eventually("begun", lambda: namespaces(cluster))
    process.send_signal(number)
    assert cluster.operator.end(process).returncode == status
    if number == signal.SIGKILL:
        assert namespaces(cluster)
        smoke(cluster, "--only", "pods")
    cluster.eventually("nothing stays", lambda: namespaces(cluster) == [])
