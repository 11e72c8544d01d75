"""Tasks that only read the cluster, with answers that stay the same: task → what runs it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from invoke.context import Context

from smallkube.cli import (
    cluster,
    cluster_operations,
    deploy,
    net,
    nodes_clean,
    tokens,
)
from smallkube.cli.context import Current
from smallkube.core.checks import Check, Result
from smallkube.deploy import facts, history, plan, run
from smallkube.deploy.facts import Changes
from smallkube.deploy.history import Entry
from smallkube.deploy.plan import Report
from smallkube.etcd import status as etcd_status
from smallkube.kube import audit_log, token_clients
from smallkube.kube import identities as certificates
from smallkube.kube.audit_log import Request
from smallkube.kube.kubectl import Api
from smallkube.nix import bundle
from smallkube.operations import bench, identities, upgrade_check, upgrade_path
from smallkube.operations import status as reading_status
from smallkube.operations import tokens as reading_tokens
from smallkube.operations.bench import Figures
from smallkube.operations.gc import Freed
from smallkube.operations.status import Row, Status
from smallkube.remote.fleet import NodeOutcome
from smallkube.secrets import peers
from smallkube.smoke.report import SmokeResult
from tests.unit.fake_cluster import FakeCluster
from tests.unit.test_cluster_skew import healthy
from tests.unit.test_deploy_checks import read as node_facts
from tests.unit.test_etcd_retention import record

Patch = pytest.MonkeyPatch
Show = Callable[[FakeCluster, Patch], Any]

DIGEST = "0123456789abcdef" * 4
TIME = "2026-11-27T07:22:34Z"
NOW = datetime.fromisoformat(TIME)
STORE = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-node2-26.05"
BACKUP = replace(
    record(17, NOW), name="test-20261127T072234Z-17-0123abcd", keys=1234, size=20 << 20, stored_size=2 << 20
)
ETCD = etcd_status.Status("3.6.6", 123456, 20 << 20, 12 << 20, 2 << 30, 5, 234567, True, ("NOSPACE",), ())


class Clock(datetime):
    """One that stands."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW.astimezone(tz)


def request(user: str, resource: str, name: str) -> Request:
    credential = f"X509SHA256={DIGEST}"
    address = "fd00:1234:5678:9abc::2"
    return Request(TIME, user, "", "delete", resource, "kube-system", name, "", 200, address, "kubectl", credential)


def show_audit(_: FakeCluster, patch: Patch) -> None:
    found = [
        request("alice", "pods/exec", "metrics-server-6b8d4c9f7d-x2x9p"),
        request("system:node:node2", "leases", "node2"),
    ]
    patch.setattr(audit_log, "requests", lambda *_: found)
    cluster.audit(Context(), user=[], verb=[], namespace=[], resource=[])


def show_smoke(_: FakeCluster, patch: Patch) -> None:
    refused = "fd88:1::1 port 443 refuses connections; journal of kube-apiserver: bind: address already in use"
    results = [
        SmokeResult("", "machines.units", Result.OK, "", 0.4),
        SmokeResult("", "api.ready", Result.FAILED, refused, 5.0),
        SmokeResult("", "pods.started", Result.SKIPPED, "because of api.ready", 0.0, reached=False),
    ]
    patch.setattr(cluster, "run_smoke", lambda *_: results)
    cluster.smoke(Context(), only=[], skip=[])


def show_status(_: FakeCluster, patch: Patch) -> None:
    states = ("Ready", True, 12, "1 of 1", DIGEST[:12], "the bundle differs")
    rows = tuple(Row(f"node{n}", "worker", "v1.36.1", "6.12.58", "17", *states) for n in (2, 3))
    days = {"apiserver.crt": 3000, "kubelet_node1.crt": 2000, "kubelet_node2.crt": 2001, "node_node1.crt": 2000}
    found = Status(rows, Api("v1.36.1", ("etcd",)), ETCD, days, BACKUP, ("etcd: alarm NOSPACE",))
    patch.setattr(reading_status, "read", lambda *_: found)
    patch.setattr(cluster, "datetime", Clock)
    cluster.status(Context())


def show_upgrade_check(_: FakeCluster, patch: Patch) -> None:
    checks = [
        Check("", "minor step", Result.OK, "from v1.34.2 to 1.35"),
        Check("", "disruption budgets", Result.FAILED, "kube-system/coredns allows no disruption of its 1 pod"),
    ]
    patch.setattr(upgrade_check, "read", lambda *_: healthy())
    patch.setattr(upgrade_check, "check", lambda *_, **__: checks)
    patch.setattr(upgrade_path, "evaluated", lambda _: None)
    cluster_operations.upgrade_check(Context())


def show_plan(shown: FakeCluster, patch: Patch) -> None:
    nodes = shown.inventory.nodes
    reports = [
        Report("node1", NodeOutcome.UNCHANGED, 1.0),
        Report(
            "node2", NodeOutcome.CHECKED, 9.0, difference="etcd: 3.6.5 → 3.6.6\n", log="would restart kubelet.service"
        ),
    ]
    changed = Changes(True, ("keys/wgkube2.key.age",), ("nix/rendered/node2.nix",))
    patch.setattr(plan, "prepare", lambda *_, **__: SimpleNamespace(nodes=nodes, warnings=(), bundle=None))
    patch.setattr(run, "execute", lambda *_: reports)
    patch.setattr(facts, "changes", lambda host, _: changed if host.node.name == "node2" else Changes(True))
    deploy.plan(Context())


def show_history(_: FakeCluster, patch: Patch) -> None:
    done = Entry(TIME, "administrator@workstation", "dry-activate", DIGEST, "/nix/store/x", "17", "rolled back", "")
    patch.setattr(history, "read", lambda _: [done])
    deploy.history(Context())


def show_checks_of_node2(task: Any, shown: FakeCluster, patch: Patch, **answers: object) -> None:
    """``task`` with what node2 answers: a deploy of another bundle, and a tunnel without an answer."""
    done = Entry(TIME, "administrator@workstation", "switch", DIGEST, STORE, "7", "deployed", "")
    answers = {"system": STORE, "profile": STORE, "history": [json.dumps(asdict(done))], **answers}
    found = node_facts(shown.inventory, **answers)
    patch.setattr(facts, "of_host", lambda *_: found)
    patch.setattr(bundle, "assemble", lambda _: SimpleNamespace(digest=DIGEST))
    patch.setattr(peers, "public_keys", lambda _: {1: "KEY1", 2: "KEY2"})
    task(Context(), node=["node2"])


def show_reports(_: FakeCluster, __: Patch) -> None:
    why = "the new system is not healthy: kubelet.service has failed; the rollback had errors (status 4)"
    deploy._show(Current(), [Report("node2", NodeOutcome.ROLLED_BACK, 341.2, why, generation="17")])


def show_bench(_: FakeCluster, patch: Patch) -> None:
    rows = [
        bench.Row("node1", "node2", Figures(1234.5, 0.41, 2.31), Figures(9411.2, 0.2, 0.52), 86.9),
        bench.Row("node2", "node1", Figures(None, None, None), Figures(9411.2, 0.2, 0.52), None),
    ]
    patch.setattr(bench, "run", lambda *_: rows)
    net.bench(Context())


def show_tokens(_: FakeCluster, patch: Patch) -> None:
    clients = {"kubelet@node1": "current", "kubelet@node2": "restart needed"}
    user = "system:kube-controller-manager"
    patch.setattr(token_clients, "in_use", lambda *_: ([], {}))
    patch.setattr(certificates, "in_use", lambda *_: ([], {}))
    rows = [reading_tokens.Row(user, "x", TIME, 12, True, {"kube-controller-manager@node1": "previous"})]
    patch.setattr(reading_tokens, "status", lambda *_: rows)
    others = [identities.Row("system:node:node2", "x.crt", 3000, False, clients)]
    patch.setattr(identities, "status", lambda *_: others)
    tokens.status(Context())


def show_freed(_: FakeCluster, __: Patch) -> None:
    old = tuple(map(str, range(101, 113)))
    waits = "a deploy is not confirmed: smallkube-rollback-1a2b3c4d.timer; wait until it is confirmed"
    rows = [
        Freed("node2", NodeOutcome.CHECKED, 0.0, "", old, 1200, 3 << 30, 14, 1 << 30),
        Freed("node10", NodeOutcome.FAILED, 0.0, waits),
    ]
    nodes_clean._show(Current(), rows)


SHOWN: Mapping[str, Show] = {
    "cluster.audit": show_audit,
    "cluster.smoke": show_smoke,
    "cluster.status": show_status,
    "cluster.upgrade-check": show_upgrade_check,
    "deploy": show_reports,
    "deploy.history": show_history,
    "deploy.plan": show_plan,
    "deploy.status": partial(show_checks_of_node2, deploy.status),
    "net.bench": show_bench,
    "net.check": partial(show_checks_of_node2, net.check, ping={"fd88:1::1": None, "10.88.1.1": 1.5}),
    "nodes.gc": show_freed,
    "tokens.status": show_tokens,
}
