"""One machine answers nonsense: that is its own row, and the other machines are reported as they are."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import app
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Node
from smallkube.nix import check, render
from smallkube.remote import ssh
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from tests.unit.fake_cluster import HOSTS, lock_of
from tests.unit.test_cluster_status import FACTS, UNITS

COLLECTION = app.tree()
TASKS: dict[str, dict[str, object]] = {
    "deploy.status": {},
    "net.check": {},
    "cluster.status": {},
    "cluster.report": {},
    "deploy.history": {},
    "deploy": {"dry_run": True},
    "deploy.plan": {},
    "nodes.exec": {},
    "tokens.status": {},
    "cluster.upgrade-check": {},
}
"""Task that asks several machines → its flags."""
STAMP = "2026-01-01T00:00:00.000000Z"
STATUS = {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.34.1"}}
NAMES = [{"name": f"node{index}.k8s.internal", "annotations": {}} for index in (1, 2)]
DEPLOYED = {"peers": "", "public_key": "", "wireguard": {"a": "b"}, "rendered": ["a/x:  y = 1;"], "own_keys": ["x"]}
BEFORE = {"has_bundle": True, "has_scripts": True, "host_key": "", "store_free": 1 << 30, "state_free": 1 << 30}
BEFORE |= {"failed": ["x.service"], "armed": ["x.timer"]}
LEASE = {"renewTime": STAMP, "leaseDurationSeconds": 40}
ETCD = {"version": "3.6.5", "header": {"revision": 5, "member_id": 1}, "dbSize": 9, "dbSizeInUse": 9, "leader": 1}
USAGE = {"cpus": 2, "load": 0.5, "memory": 9, "memory_free": 8, "store": 9, "store_free": 8, "state": 9}
USAGE |= {"state_free": 8, "uptime": 7}
ANSWERS: dict[str, Any] = {
    "facts": FACTS
    | DEPLOYED
    | BEFORE
    | {"units": "\n\n".join(f"Id={unit}.service\nActiveState={state}" for unit, state in UNITS.items())},
    "running": {"kernel": "6.12.1", "versions": {"kubelet": "v1.34.2"}},
    "/version": {"gitVersion": "v1.34.2"},
    "/readyz?verbose": "ok",
    "nodes": {"items": [{"metadata": name, "spec": {}, "status": STATUS} for name in NAMES]},
    "leases": {"items": [{"metadata": name, "spec": LEASE} for name in NAMES]},
    "status": [{"Status": {**ETCD, "errors": ["none"], "dbSizeQuota": 1, "raftTerm": 2, "raftIndex": 3}}],
    "cat": FACTS["history"],
    "usage": USAGE,
    "pods": ["node2.k8s.internal Running True default web", "<none> Pending <none> default waits"],
    "services": ["ClusterIP 10.88.0.1 443 <none> default kubernetes"],
    "tokens-in-use": ["kubelet " + "a" * 64],
    "hostname": ["x"],
    "find": ["a" * 64 + "  /var/lib/smallkube/bundles/b/nix/flake.nix"],
    "build": ["/nix/store/built"],
    "diff-closures": ["x: 1 → 2"],
    "dry-activate": ["would restart x"],
}
LINES = ("pods", "services", "cat", "tokens-in-use", "hostname", "find", "build", "diff-closures", "dry-activate")
HOSTILE: list[Any] = [
    *(None, True, -1, 1 << 70, 10**400, 1e308, float("inf"), float("nan")),
    *("", "x", "\x1b]52;c;eA==\x07\n[/etc/foo]", "\ud800", "9" * 5000, "0001-01-01T00:00:00", "[" * 50_000),
    *([], [None], [[[]]], {}, {"a": {"b": None}}, {"": []}, ["[" * 50_000], "Id=\n\n=\nId", "x" * 100_000),
]
TEXTS = ["", "{", "[" * 100_000, "null", "\0\xff", '{"items": [', '"' + "\\ud800" * 9 + '"', "x" * (5 << 20)]
LOST = "connection lost"
"""Instead of an answer."""


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """To every part of a JSON value."""
    yield ()
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ((key, *path) for path in paths(part))


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], other)
    return changed


def text_of(answer: str, value: Any) -> str:
    if answer in LINES and isinstance(value, list):
        return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in value)
    return json.dumps(value)


BROKEN = st.sampled_from([*ANSWERS]).flatmap(
    lambda answer: st.tuples(
        st.just(answer),
        st.one_of(
            st.sampled_from([*TEXTS, LOST]),
            st.builds(
                lambda path, other: text_of(answer, replaced(ANSWERS[answer], path, other)),
                st.sampled_from([*paths(ANSWERS[answer])]),
                st.sampled_from(HOSTILE),
            ),
        ),
    )
)


class Fleet:
    """Machines that answer well, but for one answer of the node ``broken``."""

    broken, answer, text = "", "", ""

    def __init__(self) -> None:
        self.healthy: dict[str, list[Any]] = {}

    def connect(self, _: Workspace, node: Node) -> FakeHost:
        return FakeHost(node, lambda command: self._reply(node, command))

    def _reply(self, node: Node, command: Command) -> Result:
        asked = next((name for name in ANSWERS if name in (command.name, *command.argv)), "")
        if node.name == self.broken and asked == self.answer:
            if self.text == LOST:
                raise SmallkubeError(LOST, where=node.name)
            return Result(0, self.text.encode(errors="surrogatepass"), "")
        right = ANSWERS.get(asked, "")
        return reply(text_of(asked, right | {"host_key": HOSTS[node.name]} if asked == "facts" else right))


@pytest.fixture
def fleet(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(shutil.copytree(template, tmp_path / "workspace")))
    monkeypatch.delenv("SMALLKUBE_DEBUG", raising=False)
    place = Workspace(tmp_path / "workspace")
    cluster = Cluster(place, load(place.inventory_file))
    render.plan(cluster).apply()
    place.flake_lock.write_bytes(lock_of(cluster))
    monkeypatch.setattr(check, "check", lambda *_: ())
    monkeypatch.setattr("time.time", lambda: float(FACTS["clock"]))
    monkeypatch.setattr("sys.argv", ["smallkube", "nodes.exec", "--", "hostname"])
    made = Fleet()
    monkeypatch.setattr(ssh, "SshHost", made.connect)
    return made


def rows(task: str, capsys: pytest.CaptureFixture[str]) -> dict[str, list[Any]]:
    """What the task says of each node; an exception that escapes it fails the test."""
    reason = ""
    try:
        COLLECTION[task](Context(), json=True, **TASKS[task])
    except Exit as end:
        assert end.code in (0, 1) or task.startswith("deploy")  # which may be refused, whatever the reason
        reason = str(end.message)
    said = capsys.readouterr()
    assert all(line.isprintable() and len(line) < 5000 for line in (*said.err.splitlines(), *reason.splitlines()))
    return {node: [*of_node(task, json.loads(said.out), node)] if said.out else [reason] for node in ("node1", "node2")}


def of_node(task: str, found: Any, node: str) -> Iterator[Any]:
    match task:
        case "deploy.history":
            yield found[node]
        case "tokens.status":
            yield found["unreachable"].get(node)
            yield from (name for row in found["tokens"] for name in row["clients"] if name.endswith(f"@{node}"))
        case "cluster.upgrade-check":
            yield from (row["check"] for row in found["checks"] if node in row["detail"])
        case "deploy":
            yield from (node in found["not_asked"], found["targets"][node])
        case "cluster.report":
            yield from ({**row["state"], "usage": row["usage"]} for row in found["nodes"] if row["name"] == node)
        case _:
            listed = found["nodes"] if task == "cluster.status" else found
            yield from (row for row in listed if node in (row.get("node"), row.get("subject")))


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=BROKEN, node=st.sampled_from(["node1", "node2"]))
@example(broken=("running", "[1]"), node="node2")
@example(broken=("facts", text_of("facts", FACTS | {"clock": 10**400})), node="node2")
@example(broken=("facts", text_of("facts", FACTS | {"system": "9" * 5000})), node="node1")
@example(broken=("nodes", '{"items": [{}]}'), node="node1")
@example(broken=("status", text_of("status", [{"Status": ETCD | {"dbSize": "x"}}])), node="node1")
@example(broken=("cat", "[" * 100_000), node="node2")
@example(broken=("running", '{"kernel": "6", "versions": {"kubelet": "x"}}'), node="node2")
@example(broken=("tokens-in-use", "\n" * 100_000), node="node2")
@example(broken=("cat", LOST), node="node2")
@example(broken=("find", LOST), node="node2")
def test_a_broken_answer_is_one_row(
    task: str, broken: tuple[str, str], node: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fleet.healthy = fleet.healthy or rows(task, capsys)
    fleet.broken, (fleet.answer, fleet.text) = node, broken
    found = rows(task, capsys)
    assert task == "cluster.upgrade-check" or all(found.values())
    if node == "node2":
        assert _timeless(found["node1"]) == _timeless(before["node1"])


def _timeless(found: list[Any]) -> list[Any]:
    return [{**row, "lease_seconds": 0, "seconds": 0} if isinstance(row, dict) else row for row in found]
