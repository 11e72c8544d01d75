"""Each task with --dry-run says of which cluster, workspace and machines it speaks, and changes nothing at all."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallkube.cli import app
from smallkube.cli.context import _Task
from smallkube.cli.program import main
from smallkube.core.checks import Check, Result
from smallkube.core.files import TEMPORARY_PREFIX
from smallkube.core.workspace import Workspace
from smallkube.etcd import catalog, signature
from smallkube.inventory import edit
from smallkube.inventory.models import Node
from smallkube.nix import check, render
from smallkube.operations import install, upgrade_check
from smallkube.remote import host, scan, ssh
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.scan import Scanned
from smallkube.secrets import people, transaction
from smallkube.secrets.host_keys import parse_host_key
from smallkube.secrets.people import Person
from tests.leaks import RECIPIENT
from tests.unit.fake_cluster import HOSTS, FakeCluster, Killed, lock_of
from tests.unit.test_cluster_skew import healthy
from tests.unit.test_etcd_retention import START, record
from tests.unit.test_nodes_gc import FACTS

BOTH = {"node1": "root@192.168.0.1:22", "node2": "root@192.168.0.2:22"}
TASKS: Mapping[str, tuple[str, set[str]]] = {
    "cluster.rebuild-primary": ("--backup b1", {*BOTH}),
    "cluster.upgrade": ("", {*BOTH}),
    "admins.add": (f"bob --recipient {RECIPIENT}", set()),
    "admins.remove": ("bob", {*BOTH}),
    "deploy": ("", {*BOTH}),
    "deploy.rollback": ("--node node2", {"node2"}),
    "encryption.rotate": ("", {*BOTH}),
    "etcd.prune": ("--unsound", set()),
    "etcd.restore": ("--name b1", {*BOTH}),
    "keys.generate": ("", set()),
    "keys.rekey": ("", set()),
    "keys.rotate-certificates": ("--all", {*BOTH}),
    "keys.rotate-issuer": ("", {*BOTH}),
    "keys.rotate-master": ("", set()),
    "keys.rotate-wireguard": ("", {*BOTH}),
    "nodes.gc": ("", {*BOTH}),
    "nodes.install": ("node2 /nonexistent", {*BOTH}),
    "nodes.reboot": ("", {*BOTH}),
    "nodes.remove": ("node2 --revoke", {"node1"}),
    "nodes.reset": ("--node node2 --force", {"node2"}),
    "tokens.rotate": ("--all", {*BOTH}),
    "users.remove": ("alice", {"node1"}),
}
"""Task → its arguments, and the machines that it would connect to."""

Capture = pytest.CaptureFixture[str]
ASKED = {"deployed", "generations", "is-active", "gc"}
"""What machines are asked for a plan; none of it changes anything."""


def test_each_task_with_a_dry_run_is_tried_here() -> None:
    collection = app.tree()
    tasks = {name: collection[name] for name in collection.task_names}
    found = {name for name, each in tasks.items() if isinstance(each, _Task) and "dry-run" in each.common}
    assert {name.removesuffix(".deploy") for name in found} == TASKS.keys()


@pytest.fixture
def place(cluster: FakeCluster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which each task has something to do, and machines that only answer."""
    root = cluster.workspace.root

    def answer(asking: host.Command) -> host.Result:
        asked = ASKED & {*asking.argv}
        assert asked, asking
        if "measure" in asking.argv:
            return reply('{"paths": 1, "bytes": 2}')
        if "gc" in asked:
            return reply(json.dumps(FACTS))
        if "generations" in asked:
            return reply(json.dumps({"current": "7", "systems": {"6": "/nix/store/a"}}))
        facts = {"system": "/nix/store/x", "history": [], "peers": "", "public_key": "", "wireguard": {}}
        return reply("active" if "is-active" in asked else json.dumps({**facts, "rendered": [], "own_keys": []}))

    def connect(_: object, node: Node) -> FakeHost:
        return FakeHost(node, answer)

    key = parse_host_key(HOSTS["node1"], "test")
    scanned = Scanned(cluster.inventory.primary, key, key)
    monkeypatch.setattr(ssh, "SshHost", connect)
    monkeypatch.setattr(scan, "scan", lambda *_: (scanned,))
    monkeypatch.setattr(upgrade_check, "read", lambda *_: healthy())
    monkeypatch.setattr(check, "check", lambda *_: ())
    monkeypatch.setattr(install, "require_key", lambda *_: key)
    monkeypatch.setattr(install, "member_state", lambda *_: "")
    monkeypatch.setattr(install, "examine", lambda *_: {"main": "/dev/vda"})
    monkeypatch.setattr(install, "require_installable", lambda *_: None)
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(root))
    render.plan(cluster.cluster).apply()
    cluster.workspace.flake_lock.write_bytes(lock_of(cluster.cluster))
    if "admins.remove" in request.node.name:
        text = edit.add_admin(cluster.workspace.inventory_file.read_text(), "bob", RECIPIENT)
        edit.write(cluster.workspace.inventory_file, edit.add_admin(text, "me", cluster.master.recipient))
    if "keys.generate" in request.node.name:
        (root / "keys" / "kube_token_system_kube-scheduler.age").unlink()
    if "users.remove" in request.node.name:
        alice = Person("alice", (), "", "", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
        cluster.workspace.users_file.write_bytes(people.render({"alice": alice}))
    folder = catalog.folder_of(cluster.cluster)
    folder.mkdir()
    one = signature.sign(replace(record(1, START), cluster="test"), Ed25519PrivateKey.generate())
    (folder / one.file).write_bytes(bytes(one.stored_size))
    catalog.write_record(folder, one)
    (folder / "orphan.db.zst.age").write_text("no record")
    for left in (folder, cluster.workspace.keys_dir):
        (left / f"{TEMPORARY_PREFIX}left").write_text("of a killed run")
    return root


def state(root: Path) -> dict[str, tuple[int, bytes]]:
    """All files below ``root`` but the log."""
    files = (each for each in sorted(root.rglob("*")) if each.is_file() and each != root / ".smallkube/log")
    return {str(file.relative_to(root)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def run(task: str, capsys: Capture, *more: str) -> tuple[int, str, str]:
    status: object = 0
    try:
        main(["smallkube", task, *TASKS[task][0].split(), "--dry-run", *more])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    return int(str(status or 0)), said.out, said.err


@pytest.mark.parametrize("task", TASKS)
def test_a_dry_run_says_where_and_changes_nothing(task: str, place: Path, capsys: Capture) -> None:
    before = state(place)
    status, out, err = run(task, capsys)
    assert (status, state(place)) == (0, before), err
    assert f"cluster test, workspace {place}" in out + err
    named = {name for name, target in BOTH.items() if f"{name} ({target})" in out + err}
    assert named == TASKS[task][1]
    assert ("would connect to no machine" in err) != bool(named)
    status, out, _ = run(task, capsys, "--json")
    assert (status, json.loads(out) is not None, state(place)) == (0, True, before)


@pytest.mark.parametrize("task", [name for name in TASKS if name.startswith(("keys.", "tokens.", "encryption."))])
def test_a_dry_run_completes_no_interrupted_change(
    task: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(transaction, "complete", killed)
        transaction.commit(Workspace(place), {"new.crt": b"new"})
    assert transaction.unfinished(Workspace(place))
    before = state(place)
    status, _, err = run(task, capsys)
    assert (status, state(place)) == (2, before)
    assert "keys: a change of keys was interrupted; run `inv keys.generate`, which completes it" in err


def killed(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("found", "status", "line"),
    [
        (Check("node2", "evaluation", Result.FAILED, "no x"), 1, "node2 evaluation: failed: no x"),
        (Check("", "evaluator", Result.WARNING, "not NixOS"), 0, "evaluator: warning: not NixOS"),
        (Check("", "inputs", Result.SKIPPED, "no network"), 0, "not checked here: inputs (no network)"),
    ],
)
def test_the_dry_run_of_a_deploy_checks_the_configuration(
    found: Check, status: int, line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(check, "check", lambda *_: (found,))
    ended, out, err = run("deploy", capsys)
    assert (ended, line in out.splitlines()) == (status, True)
    assert ("checks failed: node2; see inv nix.check" in err) == bool(status)
    assert max(map(len, out.replace(str(place), "").splitlines())) <= 80
    assert json.loads(run("deploy", capsys, "--json")[1])["checks"][0]["detail"] == found.detail


@pytest.mark.parametrize(("build_on", "where"), [("target", "each node"), ("local", "this machine")])
def test_what_needs_the_network_is_said(build_on: str, where: str, place: Path, capsys: Capture) -> None:
    (place / "nix/flake.lock").unlink()
    _, out, _ = run("deploy", capsys, "--build-on", build_on)
    assert f"needs the network: {where}," in out
    assert "nix/flake.lock is missing: the deploy makes it, which needs the network" in out
    assert "needs the network" not in run("deploy.rollback", capsys)[1]
