"""Verifies that a deploy refuses, warns and shows its plan before anything is sent, over fake machines."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from smallkube.cli.program import main
from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.deploy import plan, preflight
from smallkube.deploy.plan import Goal, Options
from smallkube.deploy.run import UNDRAINED
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import bundle, check, flake, render
from smallkube.remote import ssh
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from smallkube.secrets import transaction
from tests.unit.fake_cluster import FakeCluster, lock_of

SYSTEM = "/nix/store/x"
ENTRY = {"time": "t", "operator": "o", "goal": "switch", "digest": "d", "system": SYSTEM, "generation": "1"}
ENTRY |= {"outcome": "deployed", "reason": ""}


@pytest.fixture
def keys_of(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Node → the id of the keys that were deployed to it last. The workspace is rendered and locked."""
    found: dict[str, str] = {}
    files: list[str] = []

    def answer(node: Node, command: Command) -> Result:
        if command.argv[4] == "generations":
            return reply(json.dumps({"current": "7", "systems": {"6": "/nix/store/a", "7": "/nix/store/b"}}))
        assert command.argv[4:] == ("deployed", str(node.index))
        entry = json.dumps({**ENTRY, "keys": found.get(node.name, ""), "commit": ""})
        facts = {"system": SYSTEM, "history": [entry], "peers": "", "public_key": "", "wireguard": {}}
        facts |= {"rendered": files, "own_keys": []}
        return reply(json.dumps(facts))

    def connect(_: object, node: Node) -> FakeHost:
        return FakeHost(node, lambda command: answer(node, command))

    monkeypatch.setattr("smallkube.remote.ssh.SshHost", connect)
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    render.plan(cluster.cluster).apply()
    cluster.workspace.flake_lock.write_bytes(lock_of(cluster.cluster))
    monkeypatch.setattr(plan, "_lock", lambda cluster, _: lock_of(cluster))
    lines = [
        (file, line) for file in preflight.FILES for line in (cluster.workspace.root / file).read_text().split("\n")
    ]
    files += [f"d/{file}:{line}" for file, line in lines]
    yield found


@pytest.mark.parametrize("stale", ["node1", "node2"])
def test_a_stale_clone_is_refused_also_for_the_primary(
    cluster: FakeCluster, keys_of: dict[str, str], stale: str
) -> None:
    nodes = [cluster.inventory.node("node2")]
    newest = transaction.states(cluster.workspace)[0]
    keys_of |= {"node1": newest, "node2": newest}
    planned = plan.prepare(cluster.cluster, nodes, Goal.SWITCH)
    assert (planned.keys, planned.not_asked) == (newest, ())
    keys_of[stale] = "newer"
    with pytest.raises(UsageError, match=rf"{stale} has newer keys than this workspace"):
        plan.prepare(cluster.cluster, nodes, Goal.SWITCH)
    plan.prepare(cluster.cluster, nodes, Goal.SWITCH, Options(force=True))


@pytest.mark.parametrize(
    ("other", "refusal"),
    [
        ({"history": [json.dumps({**ENTRY, "keys": "newer"})]}, "node2 has newer keys"),
        ({"own_keys": ["wgkube7.key"]}, "node2: this machine was deployed as node7"),
    ],
)
def test_nodes_that_with_peers_adds_are_compared_too(
    cluster: FakeCluster, keys_of: dict[str, str], monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], refusal: str
) -> None:
    """So are the secrets that they must be able to read."""
    connect = ssh.SshHost

    def answer(node: Node, command: Command) -> Result:
        found = json.loads(connect(cluster.workspace, node).run(command).stdout) | {"peers": "older"}
        return reply(json.dumps(found | (other if node.name == "node2" else {})))

    monkeypatch.setattr(ssh, "SshHost", lambda _, node: FakeHost(node, lambda command: answer(node, command)))
    prepare = partial(plan.prepare, cluster.cluster, [cluster.inventory.primary], Goal.SWITCH)
    assert prepare().left_out == ("node2",)
    with pytest.raises((UsageError, ErrorGroup), match=refusal):
        prepare(Options(with_peers=True))
    other.clear()
    assert prepare(Options(with_peers=True)).nodes == cluster.inventory.nodes
    (cluster.workspace.keys_dir / "wgkube2.key.age").write_bytes(b"damaged")
    prepare()
    with pytest.raises(ErrorGroup, match=r"^keys/wgkube2\.key\.age: .*\(node2 must be able to read it\)"):
        prepare(Options(with_peers=True))


@pytest.mark.parametrize(("field", "value"), [("kubernetes", "1.35"), ("nixos", "26.05")])
def test_a_plain_deploy_does_not_change_versions(
    cluster: FakeCluster, keys_of: dict[str, str], field: str, value: str
) -> None:
    """Neither does that of a rotation, which is one with UNDRAINED."""
    file = cluster.workspace.inventory_file
    file.write_text(file.read_text().replace("cluster:\n", f"cluster:\n  {field}: '{value}'\n"))
    render.plan(cluster.cluster).apply()
    activating = [(goal, Options()) for goal in (Goal.SWITCH, Goal.BOOT, Goal.TEST)]
    for goal, options in (*activating, (Goal.SWITCH, UNDRAINED), (Goal.SWITCH, Options(force=True))):
        with pytest.raises(ErrorGroup, match=rf"^cluster\.{field}: is {value}, .* run `inv cluster\.upgrade`") as error:
            plan.prepare(cluster.cluster, cluster.inventory.nodes, goal, options)
        assert error.value.exit_status == 2
    previews = [(goal, Options()) for goal in (Goal.BUILD, Goal.DRY_ACTIVATE)]
    for goal, options in (
        *previews,
        *((Goal.SWITCH, options) for options in (Options(upgrade=True), Options(accept_changes=True))),
    ):
        plan.prepare(cluster.cluster, cluster.inventory.nodes, goal, options)


@pytest.mark.parametrize(("lock", "warned"), [("stale", True), ("none", False), ("current", False)])
def test_a_deploy_pins_what_flake_nix_names_now(
    lock: str, warned: bool, cluster: FakeCluster, keys_of: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that may not lock changes nothing, and warns of the same."""
    file, old = cluster.workspace.inventory_file, cluster.workspace.flake_lock.read_bytes()
    file.write_text(file.read_text().replace("cluster:\n", f"cluster:\n  kubernetes_nixpkgs: {'b' * 40}\n"))
    render.plan(cluster.cluster).apply()
    current, made = lock_of(cluster.cluster), list[bytes | None]()
    before = {"stale": old, "none": None, "current": current}[lock]
    cluster.workspace.flake_lock.unlink()
    if before:
        cluster.workspace.flake_lock.write_bytes(before)

    def make(cluster: Cluster, unlocked: bundle.Bundle) -> bytes:
        made.append(unlocked.files.get(flake.LOCK_FILE))
        return lock_of(cluster)

    monkeypatch.setattr(plan, "_lock", make)
    line = (
        "nix/flake.lock is stale: kubernetes-nixpkgs is not pinned: inv nix.render --update-lock shows what changes;"
        " else the deploy locks it again, which may need the network"
    )
    for may_lock in (False, True):
        planned = plan.prepare(cluster.cluster, cluster.inventory.nodes, Goal.SWITCH, may_lock=may_lock)
        assert [text for text in planned.warnings if "flake.lock" in text] == [line] * warned
        assert planned.bundle.files.get(flake.LOCK_FILE) == (current if may_lock else before)
    assert made == ([] if lock == "current" else [before])
    assert cluster.workspace.flake_lock.read_bytes() == current


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", "<<<<<<<\n{}", '{"nodes": [], "root": "root"}', "[" * 100_000])
def test_a_damaged_lock_file_is_refused(text: str, cluster: FakeCluster, keys_of: dict[str, str]) -> None:
    cluster.workspace.flake_lock.write_text(text)
    with pytest.raises(UsageError, match=r"^nix/flake\.lock: damaged; restore it from git, or run `inv nix\.render"):
        plan.prepare(cluster.cluster, cluster.inventory.nodes, Goal.SWITCH)
    with pytest.raises(UsageError, match=r"^nix/flake\.lock: damaged"):
        check.check(bundle.assemble(cluster.cluster).files, ["node1"], {})


def test_a_workspace_of_the_previous_version_is_deployed(cluster: FakeCluster, keys_of: dict[str, str]) -> None:
    cluster.workspace.state_file.unlink()
    planned = plan.prepare(cluster.cluster, cluster.inventory.nodes, Goal.SWITCH)
    assert planned.keys == ""


@pytest.fixture
def smallkube(
    keys_of: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(check, "check", lambda *_: ())

    def run(*words: str) -> tuple[int, str, str]:
        status: object = 0
        try:
            main(["smallkube", "--workspace", os.environ["SMALLKUBE_WORKSPACE"], *words])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return int(str(status or 0)), captured.out, captured.err

    return run


ROTATIONS = (
    *("tokens.rotate --all", "keys.rotate-issuer", "keys.rotate-certificates --all", "encryption.rotate"),
    "keys.rotate-wireguard",
)


@pytest.mark.parametrize("task", ROTATIONS)
def test_a_rotation_with_another_version_changes_no_key(
    task: str, cluster: FakeCluster, smallkube: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = cluster.workspace.inventory_file, transaction.read_keys(cluster.workspace)
    file.write_text(file.read_text().replace("cluster:\n", "cluster:\n  kubernetes: '1.35'\n"))
    monkeypatch.setattr("smallkube.remote.fleet.unreachable", lambda *_: {})
    status, _, err = smallkube(*task.split(), "--yes")
    assert (status, transaction.read_keys(cluster.workspace)) == (2, before)
    assert "cluster.kubernetes: is 1.35, but 1.34 was deployed; nothing was sent; run `inv cluster.upgrade`" in err


@pytest.mark.parametrize("task", ROTATIONS)
def test_a_rotation_of_a_stale_clone_changes_no_key(
    task: str,
    cluster: FakeCluster,
    smallkube: Callable[..., tuple[int, str, str]],
    keys_of: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, keys_of["node2"] = transaction.read_keys(cluster.workspace), "newer"
    monkeypatch.setattr("smallkube.remote.fleet.unreachable", lambda *_: {})
    status, _, err = smallkube(*task.split(), "--yes")
    assert (status, transaction.read_keys(cluster.workspace)) == (2, before)
    assert "keys/: node2 has newer keys than this workspace; nothing was sent; run `git pull`" in err


@pytest.mark.parametrize("flags", [("--dry-run",), ("--yes",)])
def test_new_wireguard_keys_warn_of_what_a_deploy_needs(
    flags: tuple[str, ...],
    cluster: FakeCluster,
    smallkube: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """node1 has another key than peers.json, node2 is off."""
    connect, before = ssh.SshHost, transaction.read_keys(cluster.workspace)

    def answer(node: Node, command: Command) -> Result:
        if node.name == "node2":
            raise SmallkubeError("no route to host", where=node.name)
        found = json.loads(connect(cluster.workspace, node).run(command).stdout)
        return reply(json.dumps(found | {"public_key": "another"}))

    monkeypatch.setattr(ssh, "SshHost", lambda _, node: FakeHost(node, lambda command: answer(node, command)))
    status, _, err = smallkube("keys.rotate-wireguard", *flags)
    assert (status, (transaction.read_keys(cluster.workspace) == before)) == (0, flags == ("--dry-run",))
    assert "warning: no answer from node2: new keys can't be deployed before all nodes can be reached\n" in err
    assert "warning: node1 runs another WireGuard key than keys/peers.json has: keys/ was not deployed\n" in err


def test_a_dry_run_says_where_it_would_deploy(
    cluster: FakeCluster, smallkube: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = smallkube("deploy", "--dry-run")
    assert (status, out.splitlines()[0]) == (0, f"cluster test, workspace {cluster.workspace.root}")
    assert "stage 1: node1 (root@192.168.0.1:22)" in out
    assert "no file system, no boot loader, no authorized SSH key for node1, node2" in err
    found = json.loads(smallkube("deploy", "--dry-run", "--json")[1])
    assert found["targets"]["node2"] == "root@192.168.0.2:22"
    assert (found["cluster"], found["workspace"]) == ("test", str(cluster.workspace.root))


@pytest.mark.parametrize(("generation", "status"), [("77", 1), ("6", 0)])
def test_a_dry_run_of_a_rollback_finds_the_generation(
    smallkube: Callable[..., tuple[int, str, str]], generation: str, status: int
) -> None:
    ended, _, err = smallkube("deploy.rollback", "--generation", generation, "--dry-run")
    assert ended == status
    assert (f"there is no generation {generation}" in err) == bool(status)
