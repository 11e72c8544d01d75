"""A report with every part, for the tests of the page, and its variants."""

from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from smallkube.deploy.history import Entry
from smallkube.etcd.drills import Drill
from smallkube.etcd.status import Status as Etcd
from smallkube.kube.workloads import Pod, Service
from smallkube.operations import report
from smallkube.operations.report import PROBLEM, WARNING, Credential, Finding, Link, Machine, Report, Usage, Version
from smallkube.operations.status import Row

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
LONG = "a-service-with-a-name-as-long-as-names-of-services-may-ever-be63"


def stamp(**ago: float) -> str:
    return (NOW - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine(index: int, **changes: object) -> Machine:
    role = "primary" if index == 1 else "worker"
    row = Row(f"node{index}", role, "v1.36.3", "6.12.58", "41", "Ready", False, 6, "2 of 2", "9f86d081884c", "")
    usage = Usage(4, 0.42 + index / 5, 8_000_000, 5_100_000, 60_000_000, 31_000_000, 60_000_000, 31_000_000, 864_000)
    addresses = (f"fd88:{index}::1", f"10.88.{index}.1")
    made = Machine(row.node, role, f"192.0.2.{index}", addresses, True, row, 8 + index, 0, usage)
    return replace(made, **changes)  # type: ignore[arg-type]


def backup(number: int, **changes: object) -> report.Backup:
    created = stamp(days=number, hours=9)
    name = f"demo-{created[:10].replace('-', '')}T030000Z-{9000 - number}-1a2b3c4d"
    kept = ("last", "daily") if number else ("last", "daily", "weekly", "monthly")
    made = report.Backup(name, created, 9000 - number, 14_000_000, 2_400_000, created, "", "", kept, None)
    return replace(made, **changes)  # type: ignore[arg-type]


def entry(index: int, hours: int, outcome: str = "deployed", reason: str = "") -> report.Deploy:
    digest, commit = "9f86d081884c7d659a2feaa0c55ad015", "4e1243bd22c66e76c2ba9eddc1f91394e57f9f83"
    made = Entry(stamp(hours=hours), "ada@laptop", "switch", digest, "/nix/store/x", "41", outcome, reason, "", commit)
    return report.Deploy(f"node{index}", made)


def credentials() -> tuple[Credential, ...]:
    clients = {"kubelet@node2": "current"}
    return (
        Credential("users/bob.crt", "person", "bob", 82, 8, False, {}),
        Credential("node_node2.crt", "certificate", "node2", 120, 3529, False, clients),
        Credential("apiserver.crt", "certificate", "api.k8s.internal", 120, 3529, True, {}),
        Credential("kube_token_root", "token", "root", 120, None, False, {"kubeconfig@node1": "current"}),
    )


def versions() -> tuple[Version, ...]:
    return (
        Version("NixOS", "26.05", "inventory.yaml", "2026-12-31", 34),
        Version("Kubernetes", "v1.36.3", "API server", "2027-06-28", 213),
        Version("kubelet", "v1.36.3", "node1, node2, node3"),
        Version("etcd", "3.6.14", "node1"),
        Version("nixpkgs", "044bfe75bfe4 of 2026-11-02", "nix/flake.lock"),
    )


def services() -> tuple[Service, ...]:
    return (
        Service("ClusterIP", "10.88.0.1,fd88:0::1", "443", "", "default", "kubernetes"),
        Service("ClusterIP", "10.88.0.10", "53,53,9153", "", "kube-system", "kube-dns"),
        Service("NodePort", "10.88.0.77", "80,443", "30080,30443", "shop", "web"),
        Service("ClusterIP", "10.88.0.78", "5432", "", "shop", LONG),
    )


def healthy(count: int = 3) -> Report:
    nodes = tuple(machine(index) for index in range(1, count + 1))
    pairs = [(a.name, b.name) for a in nodes for b in nodes if int(a.name[4:]) < int(b.name[4:])]
    links = tuple(Link(pair, 12 + place, 0.4 + place / 10, 0, 8, "ok") for place, pair in enumerate(pairs))
    pods = tuple(
        Pod(f"{node.name}.k8s.internal", "Running", True, "shop", f"web-{number}")
        for node in nodes
        for number in range(node.pods or 0)
    )
    backups = tuple(backup(number) for number in range(14))
    drilled = replace(backups[3], drill=Drill(stamp(days=3), 4.2))
    return Report(
        cluster="demo",
        time=stamp(),
        smallkube="0.1.0",
        api="v1.36.3",
        not_ready=(),
        etcd=Etcd("3.6.14", 9000, 14 << 20, 9 << 20, 2 << 30, 3, 12345, True, (), ()),
        nodes=nodes,
        links=links,
        services=services(),
        pods=pods,
        versions=versions(),
        credentials=credentials(),
        backups=(*backups[:3], drilled, *backups[4:]),
        deploys=tuple(entry(node, 30 * day) for day in range(1, 4) for node in (3, 2, 1)),
        findings=(),
    )


def troubled() -> Report:
    """A node does not answer, another has drift, links and a backup are bad."""
    found = healthy(4)
    off = replace(machine(3).state, ready="NotReady", kernel="?", generation="?", tunnel="?", deployed="?")
    drift = "the workspace has changed since (1f2e3d4c5b6a): inv deploy"
    changed = replace(machine(2).state, drift=drift, problems=("drift",), cordoned=True)
    nodes = (
        found.nodes[0],
        machine(
            2,
            state=changed,
            bad_pods=2,
            usage=replace(machine(2).usage or Usage(1, 0, 1, 1, 1, 1, 1, 1, 1), memory_free=300_000),
        ),
        machine(3, answers=False, state=off, usage=None),
        found.nodes[3],
    )
    bad = {("node1", "node3"): Link(("node1", "node3"), 4000, None, 4, 4, "down")}
    bad |= {("node2", "node3"): Link(("node2", "node3"), None, None, 4, 4, "down")}
    bad |= {("node2", "node4"): Link(("node2", "node4"), 44, 88.1, 2, 8, "lossy")}
    failed = replace(found.backups[5], drill=Drill(stamp(days=5), 2.0, "revision: 8 instead of 9"))
    damaged = replace(found.backups[2], fault="damaged: it has 12 bytes instead of 2400000")
    findings = (
        Finding(PROBLEM, "node3", "does not answer: timed out", "inv deploy.status --node node3"),
        Finding(PROBLEM, "node2", f"system: {drift}", "inv deploy --node node2"),
        Finding(PROBLEM, damaged.name, f"backup: {damaged.fault}", "inv etcd.backup"),
        Finding(WARNING, "node2", "memory: 292 of 7812 MiB are free", "inv nodes.exec --node node2 -- systemd-cgtop"),
        Finding(
            WARNING,
            "",
            "the support of NixOS 26.05 ends on 2026-12-31; set cluster.nixos to a newer release",
            "inv nix.render --update-lock",
        ),
    )
    return replace(
        found,
        nodes=nodes,
        links=tuple(bad.get(link.ends, link) for link in found.links),
        backups=(*found.backups[:2], damaged, *found.backups[3:5], failed, *found.backups[6:]),
        deploys=(
            entry(2, 2, "rolled back", "checks failed: node Ready: it is NotReady; rolled back to 40"),
            *found.deploys,
        ),
        findings=findings,
    )


def empty() -> Report:
    """No machine answers, and nothing is there."""
    rows = [
        replace(machine(index).state, ready="?", kubelet="", kernel="?", tunnel="?", deployed="?") for index in (1, 2)
    ]
    nodes = tuple(
        machine(index, answers=False, state=row, pods=None, bad_pods=None, usage=None)
        for index, row in enumerate(rows, 1)
    )
    unknown = Link(("node1", "node2"), None, None, 0, 0, "unknown")
    silent = (Finding(PROBLEM, "node1", "does not answer: no route", "inv deploy.status --node node1"),)
    bare = replace(healthy(), pods=(), versions=(), credentials=(), backups=(), deploys=())
    return replace(bare, api="", etcd=None, nodes=nodes, links=(unknown,), services=None, findings=silent)


def with_text(value: Any, text: str) -> Any:
    """``value`` with ``text`` in place of each text that a machine answers, so all but those of a fixed form."""
    if isinstance(value, tuple):
        return tuple(with_text(each, text) for each in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    fixed = {"time", "created", "severity", "name", "node", "ends", "state"} if not isinstance(value, Pod) else set()
    found = {each.name: getattr(value, each.name) for each in fields(value)}
    changed = {name: text if isinstance(each, str) else with_text(each, text) for name, each in found.items()}
    kept = {name: each for name, each in found.items() if name in fixed and isinstance(each, str | tuple)}
    return replace(value, **(changed | kept))
