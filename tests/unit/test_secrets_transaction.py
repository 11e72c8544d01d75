"""The transaction on keys/: its journal is completed or refused, of an earlier version too, and holds no secret."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.operations import wireguard
from smallkube.secrets import policy, transaction
from smallkube.secrets.transaction import Change, changing_keys

FILES = {"a.age": b"\x00\xff", "peers.json": b"[]\n"}


@pytest.fixture
def interrupted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Write the journal of a change, and nothing after it."""

    def begin() -> None:
        with monkeypatch.context() as context:
            context.setattr(transaction, "complete", lambda *_: ())
            transaction.commit(workspace, FILES, ["node1"])

    return begin


def test_the_next_who_takes_the_lock_completes_the_change(
    workspace: Workspace, interrupted: Callable[[], None]
) -> None:
    interrupted()
    assert not workspace.keys_dir.exists()
    with pytest.raises(UsageError, match=r"inv keys\.generate"):
        transaction.refuse_unfinished(workspace)
    with changing_keys(workspace) as completed:
        assert completed == ("node1",)
    found = {path.name: path.read_bytes() for path in workspace.keys_dir.iterdir()}
    assert found.keys() - FILES == {"state.json"} and found.items() >= FILES.items()
    with changing_keys(workspace) as completed:
        assert completed == ()
    transaction.refuse_unfinished(workspace)


@pytest.mark.parametrize("newer", [b"newer", None])
def test_a_leftover_journal_does_not_undo_newer_work(
    workspace: Workspace, newer: bytes | None, interrupted: Callable[[], None]
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


def test_a_half_completed_journal_is_completed(workspace: Workspace, interrupted: Callable[[], None]) -> None:
    workspace.keys_dir.mkdir()
    interrupted()
    (workspace.keys_dir / "a.age").write_bytes(FILES["a.age"])
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
    workspace: Workspace, interrupted: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted()

    def full(*_: object) -> None:
        raise SmallkubeError("can't be written: No space left on device")

    with monkeypatch.context() as context:
        context.setattr(transaction, "write_files", full)
        with pytest.raises(SmallkubeError, match="No space left"):
            transaction.complete(workspace)
    assert transaction.complete(workspace) == ("node1",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 5000,
        '{"nodes": ["node1"], "files": {"../inventory.yaml": "eA=="}}',
        '{"nodes": ["node1"], "files": {"hosts/..": "eA=="}}',
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
        transaction.unfinished(workspace)


def test_the_journal_holds_nothing_that_is_secret(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "complete", lambda *_: ())
    wireguard.act(cluster, wireguard.plan(cluster))
    document = json.loads((cluster.workspace.state_dir / "keys-change.json").read_text())
    assert set(document["files"]) == {
        *("wgkube1.key.age", "wgkube2.key.age", "peers.json", "recipients.json", "state.json"),
    }
    for name, data in document["files"].items():
        assert not name.endswith(".age") or base64.b64decode(data).startswith(b"age-encryption.org/v1\n")


def test_what_was_changed_since_it_was_read_is_not_replaced(cluster: Cluster) -> None:
    (row, *_) = policy.secrets_of(cluster.inventory)
    keys = transaction.read_keys(cluster.workspace)
    (cluster.workspace.keys_dir / row.file).write_bytes(b"newer")
    with pytest.raises(UsageError, match=rf"changed meanwhile: {row.file}"), changing_keys(cluster.workspace):
        transaction.apply(cluster, Change({row: b"x" * 32}), keys=keys)
    assert transaction.unfinished(cluster.workspace) == ()
    assert (cluster.workspace.keys_dir / row.file).read_bytes() == b"newer"


def test_a_change_without_effect_writes_nothing(cluster: Cluster) -> None:
    before = {path: path.stat().st_mtime_ns for path in cluster.workspace.root.rglob("*") if path.name != "keys.lock"}
    with changing_keys(cluster.workspace):
        assert transaction.apply(cluster, Change(public={"absent.crt": None})) == ()
    after = {path: path.stat().st_mtime_ns for path in cluster.workspace.root.rglob("*") if path.name != "keys.lock"}
    assert after == before


def test_host_keys_are_in_their_own_folder(workspace: Workspace) -> None:
    files = {f"hosts/node{number}.pub": b"key" for number in range(9)}
    with changing_keys(workspace):
        assert transaction.commit(workspace, files) == tuple(files)
        assert len(list(workspace.hosts_keys_dir.iterdir())) == 9
        transaction.commit(workspace, dict.fromkeys(files))
    assert list(workspace.hosts_keys_dir.iterdir()) == []


@settings(max_examples=20)
@given(st.lists(st.binary(max_size=1), max_size=6))
def test_each_change_of_keys_has_an_id(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    before: tuple[str, ...] = transaction.states(workspace)
    assert before == ()
    for content in contents:
        with changing_keys(workspace):
            changed = transaction.commit(workspace, {"a.age": content})
        after = transaction.states(workspace)
        assert after[bool(changed) :] == before and len({*after}) == len(after)
        before = after


def test_the_last_changes_of_keys_are_remembered(workspace: Workspace) -> None:
    workspace.keys_dir.mkdir()
    old = [f"{number:016x}" for number in range(transaction.MAX_STATES)]
    workspace.state_file.write_text(json.dumps(old))
    with changing_keys(workspace):
        transaction.commit(workspace, FILES)
    assert transaction.states(workspace)[1:] == tuple(old[:-1])


def test_the_changes_of_two_clones_can_be_merged(workspace: Workspace) -> None:
    """Both add a line at the top, and git offers both."""
    for _ in range(3):
        with changing_keys(workspace):
            transaction.commit(workspace, {"a.age": bytes([_])})
    lines = workspace.state_file.read_text().splitlines()
    workspace.state_file.write_text("\n".join([*lines[:1], '"theirs",', *lines[1:]]))
    assert "theirs" in transaction.states(workspace)


@pytest.mark.parametrize("text", ["", "x", "{}", "[1]", "[" * 5000, '["a"', "<<<<<<< HEAD\n[]"])
def test_a_damaged_list_of_changes_is_refused(workspace: Workspace, text: str) -> None:
    workspace.keys_dir.mkdir()
    workspace.state_file.write_text(text)
    with pytest.raises(UsageError, match=r"keys/state\.json: damaged"), changing_keys(workspace):
        transaction.commit(workspace, FILES)
    assert [path.name for path in workspace.keys_dir.iterdir()] == ["state.json"]
