"""Verifies what nix/flake.lock tells: the inputs, their age, and what an update changes."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.nix import lockfile

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


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_json_is_read(value: object) -> None:
    nested = {"nodes": {"root": {"inputs": {"nixpkgs": "n"}}, "n": {"locked": value}}}
    for each in (value, nested):
        assert isinstance(lockfile.complaint(json.dumps(each).encode(), NOW), str)
