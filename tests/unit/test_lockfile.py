"""Verifies what nix/flake.lock tells: the inputs, their age, and what an update changes."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.cli.program import main
from smallkube.core.errors import SmallkubeError
from smallkube.nix import flake, lockfile, render
from tests.unit.fake_cluster import FakeCluster

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def lock(day: str | None = "2026-11-20", revision: str = "a" * 40, **more: str) -> bytes:
    locked: dict[str, object] = {"type": "github", "rev": revision}
    if day:
        locked["lastModified"] = int(datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp())
    nodes = {"nixpkgs": {"locked": locked}, **{name: {"locked": {"rev": rev}} for name, rev in more.items()}}
    root = {"root": {"inputs": {name: name for name in nodes}}}
    return json.dumps({"nodes": {**nodes, **root}, "root": "root", "version": 7}).encode()


@pytest.mark.parametrize(
    ("text", "days"),
    [
        (None, None),
        (lock(None), None),
        (lock("2026-10-28"), None),
        (lock("2026-10-27"), 31),
        (lock("2026-06-30"), 150),
        (lock("2026-12-24"), None),
        (b"<<<<<<<", None),
    ],
)
def test_a_lock_older_than_thirty_days_is_told(text: bytes | None, days: int | None) -> None:
    found = lockfile.complaint(text, NOW)
    assert found.startswith(f"nix/flake.lock has nixpkgs of {days} days ago: inv nix.render --update-lock") == (
        days is not None
    )
    assert days is not None or found == ""


def test_a_lock_without_the_second_nixpkgs_is_not_complete() -> None:
    both = lock(**{"kubernetes-nixpkgs": "e" * 40})
    assert [lockfile.is_complete(text, second=False) for text in (None, lock(), both)] == [False, True, True]
    assert [lockfile.is_complete(text, second=True) for text in (None, lock(), both)] == [False, False, True]


def test_the_second_nixpkgs_alone_is_left_out() -> None:
    both = lock(agenix="c" * 40, **{"kubernetes-nixpkgs": "e" * 40})
    for text in (both, lock(agenix="c" * 40)):
        assert json.loads(lockfile.without_second(text)) == json.loads(lock(agenix="c" * 40))


@pytest.mark.parametrize("text", [b"", b"<<<<<<<", b"[]", b"{}", b'{"nodes": {"root": {}}, "root": "root"}'])
def test_a_damaged_lock_is_not_taken_over(text: bytes) -> None:
    with pytest.raises(SmallkubeError, match=r"^nix/flake\.lock: damaged; restore it from git"):
        lockfile.without_second(text)


def test_an_update_shows_each_input_that_it_changed() -> None:
    old = lock("2026-10-01", "a" * 40, agenix="c" * 40, gone="d" * 40)
    new = lock("2026-11-20", "b" * 40, agenix="c" * 40, **{"kubernetes-nixpkgs": "e" * 40})
    assert list(lockfile.changes(old, new)) == [
        "gone: dddddddddddd → none",
        "kubernetes-nixpkgs: none → eeeeeeeeeeee",
        "nixpkgs: aaaaaaaaaaaa of 2026-10-01 → bbbbbbbbbbbb of 2026-11-20",
    ]
    assert list(lockfile.changes(None, lock())) == [f"nixpkgs: none → {'a' * 12} of 2026-11-20"]


def test_packages_with_another_version_are_named() -> None:
    before, after = {"etcd": "3.6.11", "linux": "6.18.1", "nix": "2"}, {"etcd": "3.6.14", "linux": "6.18.1"}
    assert list(lockfile.version_changes(before, after)) == ["etcd: 3.6.11 → 3.6.14"]


@pytest.mark.parametrize("evaluated", [True, False])
def test_update_lock_prints_inputs_and_versions(
    evaluated: bool, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = lock("2026-10-01", "a" * 40), lock("2026-11-20", "b" * 40)
    render.plan(cluster.cluster).apply()
    cluster.workspace.flake_lock.write_bytes(old)

    def versions(files: Mapping[str, bytes], node: str) -> dict[str, str]:
        if not evaluated:
            raise SmallkubeError("no network")
        return {"etcd": "3.6.14" if files[flake.LOCK_FILE] == new else "3.6.11", node: "1"}

    monkeypatch.setattr(flake, "lock", lambda _files, *, update: new if update else old)
    monkeypatch.setattr(flake, "versions", versions)
    main(["smallkube", "--workspace", str(cluster.workspace.root), "nix.render", "--update-lock"])
    said = capsys.readouterr()
    assert cluster.workspace.flake_lock.read_bytes() == new
    inputs = f"nixpkgs: {'a' * 12} of 2026-10-01 → {'b' * 12} of 2026-11-20\n"
    assert said.out == inputs + ("etcd: 3.6.11 → 3.6.14\n" if evaluated else "")
    assert ("versions of packages are unknown: no network" in said.err) is not evaluated


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_json_is_read(value: object) -> None:
    nested = {"nodes": {"root": {"inputs": {"nixpkgs": "n"}}, "n": {"locked": value}}}
    for each in (value, nested):
        assert isinstance(lockfile.complaint(json.dumps(each).encode(), NOW), str)
