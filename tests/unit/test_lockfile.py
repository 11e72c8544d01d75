"""Verifies what nix/flake.lock tells: inputs, whether flake.nix names them, their age, and what an update changes."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.cli.program import main
from smallkube.core import process
from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import HostFacts
from smallkube.doctor import facts
from smallkube.kube.kubectl import Api
from smallkube.nix import bundle, check, flake, lockfile, render
from smallkube.operations import status
from smallkube.operations.cluster_facts import Facts
from tests.unit.fake_cluster import FakeCluster

NOW = datetime(2026, 11, 27, tzinfo=UTC)
FLAKE = b'    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";'


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
    found = lockfile.complaint(text, b"", NOW)
    assert found.startswith(f"nix/flake.lock has nixpkgs of {days} days ago: inv nix.render --update-lock") == (
        days is not None
    )
    assert days is not None or found == ""


OLD, NEW = "8110df5ad7abf5d4c0f6fb0f8f978390e77f9685", "044bfe75bfe4c7bbe043dc17b5e42ea823b84a09"
PLACES = {
    "nixos-25.11": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "ref": "nixos-25.11"},
    "nixos-26.05": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "ref": "nixos-26.05"},
    OLD: {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": OLD},
    "agenix": {"type": "github", "owner": "ryantm", "repo": "agenix"},
}


def pinning(**places: object) -> bytes:
    """A lock file of inputs that were pinned when flake.nix named these places."""
    names = {"agenix": PLACES["agenix"], **{name.replace("_", "-"): place for name, place in places.items()}}
    nodes = {f"{name}_2": {"locked": {"rev": "a" * 40}, "original": place} for name, place in names.items()}
    root = {"root": {"inputs": {name: f"{name}_2" for name in names}}}
    return json.dumps({"nodes": {**nodes, **root}, "root": "root", "version": 7}).encode()


def flake_nix(cluster: FakeCluster, **settings: str) -> bytes:
    """The rendered flake.nix of another inventory."""
    file = cluster.workspace.inventory_file
    lines = "".join(f"  {key}: '{value}'\n" for key, value in settings.items())
    file.write_text(file.read_text().replace("cluster:\n", f"cluster:\n{lines}"))
    return render.plan(cluster.cluster).files[cluster.workspace.flake_file].encode()


NAMES = "flake.nix names NixOS/nixpkgs"


@pytest.mark.parametrize(
    ("second", "pinned", "found"),
    [
        (None, {}, []),
        (None, {"kubernetes_nixpkgs": PLACES[OLD]}, ["kubernetes-nixpkgs is pinned, flake.nix does not name it"]),
        (OLD, {"kubernetes_nixpkgs": PLACES[OLD]}, []),
        (OLD, {}, ["kubernetes-nixpkgs is not pinned"]),
        (
            NEW,
            {"kubernetes_nixpkgs": PLACES[OLD]},
            [f"kubernetes-nixpkgs pins NixOS/nixpkgs/{OLD[:12]}, {NAMES}/{NEW[:12]}"],
        ),
        (
            OLD,
            {"nixpkgs": PLACES["nixos-25.11"], "kubernetes_nixpkgs": {**PLACES[OLD], "owner": "me"}},
            [
                f"nixpkgs pins NixOS/nixpkgs/nixos-25.11, {NAMES}/nixos-26.05",
                f"kubernetes-nixpkgs pins me/nixpkgs/{OLD[:12]}, {NAMES}/{OLD[:12]}",
            ],
        ),
        (
            None,
            {"nixpkgs": {"type": "github", "owner": "NixOS", "repo": "nixpkgs"}},
            [f"nixpkgs pins NixOS/nixpkgs, {NAMES}/nixos-26.05"],
        ),
        (
            None,
            {"nixpkgs": {"type": "path", "path": "/x"}, "agenix": "\x1b[2J"},
            [
                f"nixpkgs pins another place, {NAMES}/nixos-26.05",
                "agenix pins another place, flake.nix names ryantm/agenix",
            ],
        ),
    ],
)
def test_a_pin_of_another_place_is_stale(
    second: str | None, pinned: dict[str, object], found: list[str], cluster: FakeCluster
) -> None:
    more = {"kubernetes_nixpkgs": second} if second else {}
    flake = flake_nix(cluster, nixos="26.05", kubernetes="1.36", **more)
    text = pinning(**{"nixpkgs": PLACES["nixos-26.05"], **pinned})
    line = f"nix/flake.lock is stale: {'; '.join(found)}: inv nix.render --update-lock" if found else ""
    assert lockfile.stale_line(text, flake) == line
    assert lockfile.is_complete(text, flake) == (not found)
    assert lockfile.complaint(text, flake, NOW) == line


def test_no_lock_is_not_stale_and_not_complete(cluster: FakeCluster) -> None:
    flake = flake_nix(cluster)
    assert (lockfile.stale(None, flake), lockfile.is_complete(None, flake)) == ({}, False)
    for damaged in (b"", b"<<<<<<<", b"[]", b'{"nodes": {"root": {"inputs": {"nixpkgs": "gone"}}}}'):
        assert lockfile.stale(damaged, flake) == dict.fromkeys(("nixpkgs", "agenix"), "is not pinned")


def test_a_check_names_each_stale_input(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that is overridden: something else is evaluated in its place."""
    monkeypatch.setattr(process, "find", lambda *_: None)
    files = {flake.FILE: flake_nix(cluster, nixos="26.05", kubernetes="1.36")}

    def found(lock: bytes | None, **overrides: str) -> list[str]:
        given = {**files, flake.LOCK_FILE: lock} if lock else files
        return [str(each.detail) for each in check.check(given, [], overrides) if each.check == check.LOCK]

    (line,) = found(pinning(nixpkgs=PLACES["nixos-25.11"]))
    assert line == f"stale: nixpkgs pins NixOS/nixpkgs/nixos-25.11, {NAMES}/nixos-26.05: inv nix.render --update-lock"
    assert found(pinning(nixpkgs=PLACES["nixos-25.11"]), nixpkgs="path:/x") == []
    assert found(pinning(nixpkgs=PLACES["nixos-26.05"])) == found(None) == []


def test_status_and_doctor_report_a_stale_lock(cluster: FakeCluster) -> None:
    flake_nix(cluster, nixos="26.05", kubernetes="1.36")
    render.plan(cluster.cluster).apply()
    off = SmallkubeError("no answer")
    found: Facts[HostFacts] = Facts({node.name: off for node in cluster.inventory.nodes}, Api(), off, None)

    def reported() -> list[str]:
        whole = bundle.assemble(cluster.cluster)
        problems = status.of_facts(cluster.cluster, cluster.connect, whole, found, NOW).problems
        lines = [line for line in problems if line.startswith("nix/flake.lock")]
        assert (facts.read(cluster.workspace).lock or "") == "".join(lines)
        return lines

    assert reported() == []
    for nixos, stale in (("nixos-26.05", False), ("nixos-25.11", True)):
        cluster.workspace.flake_lock.write_bytes(pinning(nixpkgs=PLACES[nixos]))
        assert [line.startswith("nix/flake.lock is stale: nixpkgs pins") for line in reported()] == [True] * stale


def test_render_tells_a_stale_lock_and_what_mends_it(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    flake_nix(cluster, nixos="26.05", kubernetes="1.36")

    def rendered(*words: str) -> tuple[int, str]:
        status: object = 0
        try:
            main(["smallkube", "--workspace", str(cluster.workspace.root), "nix.render", *words])
        except SystemExit as end:
            status = end.code
        return int(str(status or 0)), capsys.readouterr().err

    line = "pins NixOS/nixpkgs/nixos-25.11, flake.nix names NixOS/nixpkgs/nixos-26.05: inv nix.render --update-lock"
    cluster.workspace.nix_dir.mkdir(exist_ok=True)
    cluster.workspace.flake_lock.write_bytes(pinning(nixpkgs=PLACES["nixos-25.11"]))
    status, said = rendered("--check")
    assert (status, "run `inv nix.render`" in said) == (1, True)
    status, said = rendered()
    assert (status, line in said) == (0, True)
    status, said = rendered("--check")
    assert (status, said.count("\n"), line in said) == (1, 1, True)
    cluster.workspace.flake_lock.write_bytes(pinning(nixpkgs=PLACES["nixos-26.05"]))
    assert rendered("--check") == (0, "")
    cluster.workspace.flake_lock.unlink()
    assert rendered("--check") == (0, "")


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
        assert isinstance(lockfile.complaint(json.dumps(each).encode(), b"", NOW), str)
        assert set(lockfile.stale(json.dumps(each).encode(), FLAKE)) == {"nixpkgs"}
