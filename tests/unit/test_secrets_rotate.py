"""Rotation without real tools: the journal is whole or refused, and what a plan shows holds no secret."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory
from smallkube.operations import wireguard
from smallkube.secrets import generate, journal
from smallkube.secrets.store import changing_keys

HOSTS = {
    "node1": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr",
    "node2": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjg0kLwIy6BBWg6t5Jn9BA4BzzA3oDQfUWr4FZiaNxV",
}


@pytest.fixture
def inventory(workspace: Workspace) -> Inventory:
    """Of a workspace in which everything is generated."""
    workspace.hosts_keys_dir.mkdir(parents=True)
    for node, key in HOSTS.items():
        (workspace.hosts_keys_dir / f"{node}.pub").write_text(f"{key}\n")
    found = load(workspace.inventory_file)
    with changing_keys(workspace):
        generate.act(Cluster(workspace, found), generate.plan(Cluster(workspace, found)))
    return found


@pytest.fixture
def interrupted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[[], journal.Change]:
    """Write the journal of a change, and nothing after it."""

    def begin() -> journal.Change:
        change = journal.Change(("node1",), {"a.age": b"\x00\xff", "peers.json": b"[]\n"})
        with monkeypatch.context() as context:
            context.setattr(journal, "complete", lambda _: ())
            journal.commit(workspace, change)
        return change

    return begin


def test_the_next_who_takes_the_lock_completes_the_change(
    workspace: Workspace, interrupted: Callable[[], journal.Change]
) -> None:
    change = interrupted()
    assert not workspace.keys_dir.exists()
    with pytest.raises(UsageError, match=r"inv keys\.generate"):
        journal.refuse_unfinished(workspace)
    with changing_keys(workspace) as completed:
        assert completed == ("node1",)
    assert {path.name: path.read_bytes() for path in workspace.keys_dir.iterdir()} == change.files
    with changing_keys(workspace) as completed:
        assert completed == ()
    journal.refuse_unfinished(workspace)


@pytest.mark.parametrize("newer", [b"newer", None])
def test_a_leftover_journal_does_not_undo_newer_work(
    workspace: Workspace, newer: bytes | None, interrupted: Callable[[], journal.Change]
) -> None:
    workspace.keys_dir.mkdir()
    file = workspace.keys_dir / "a.age"
    file.write_bytes(b"replaced")
    interrupted()
    if newer is None:
        file.unlink()
    else:
        file.write_bytes(newer)
    with pytest.raises(UsageError, match=r"keys-change\.json: .*changed since: a\.age"), changing_keys(workspace):
        pass
    assert [path.name for path in workspace.keys_dir.iterdir()] == ([] if newer is None else ["a.age"])


def test_a_half_completed_journal_is_completed(workspace: Workspace, interrupted: Callable[[], journal.Change]) -> None:
    workspace.keys_dir.mkdir()
    change = interrupted()
    (workspace.keys_dir / "a.age").write_bytes(change.files["a.age"])
    with changing_keys(workspace) as completed:
        assert completed == ("node1",)


def test_a_journal_of_version_1_is_completed(workspace: Workspace) -> None:
    workspace.state_dir.mkdir()
    text = '{"version": 1, "nodes": ["node1"], "files": {"a.age": "eA=="}, "gone": []}'
    (workspace.state_dir / "keys-change.json").write_text(text)
    with changing_keys(workspace) as completed:
        assert completed == ("node1",)
    assert (workspace.keys_dir / "a.age").read_bytes() == b"x"


def test_a_full_disk_while_completing_keeps_the_journal(
    workspace: Workspace, interrupted: Callable[[], journal.Change], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted()

    def full(*_: object) -> None:
        raise SmallkubeError("can't be written: No space left on device")

    with monkeypatch.context() as context:
        context.setattr(journal, "write_files", full)
        with pytest.raises(SmallkubeError, match="No space left"):
            journal.complete(workspace)
    assert journal.complete(workspace) == ("node1",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 5000,
        '{"nodes": ["node1"], "files": {"../inventory.yaml": "eA=="}}',
        '{"nodes": ["node1"], "files": {"a.age": "*"}}',
        '{"nodes": ["node1"], "files": {"a.age": 1}}',
        '{"nodes": 1, "files": {}}',
        '{"nodes": [], "files": {}}',
    ],
)
def test_a_damaged_journal_is_refused_and_nothing_written(workspace: Workspace, text: str) -> None:
    workspace.state_dir.mkdir()
    (workspace.state_dir / "keys-change.json").write_text(text)
    with pytest.raises(UsageError, match=r"keys-change\.json: damaged"), changing_keys(workspace):
        pass
    assert not workspace.keys_dir.exists()


@given(st.binary(max_size=200))
def test_damage_never_crashes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    workspace.state_dir.mkdir()
    (workspace.state_dir / "keys-change.json").write_bytes(data)
    with pytest.raises(UsageError):
        journal.unfinished(workspace)


def test_the_journal_holds_nothing_that_is_secret(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[journal.Change] = []
    monkeypatch.setattr(journal, "commit", lambda _, change: begun.append(change))
    wireguard.act(cluster, wireguard.plan(cluster))
    assert set(begun[0].files) == {"wgkube1.key.age", "wgkube2.key.age", "peers.json", "recipients.json", "secrets.nix"}
    for name, data in begun[0].files.items():
        assert not name.endswith(".age") or data.startswith(b"age-encryption.org/v1\n")
