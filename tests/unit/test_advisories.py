"""Verifies which advisories in OSV's format concern a version, and that files that are something else are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.cli.program import main
from smallkube.core.errors import UsageError
from smallkube.nix import advisories, flake, render
from smallkube.nix.advisories import compare, read
from tests.unit.fake_cluster import FakeCluster, lock_of

OURS = {"ecosystem": "kubernetes", "name": "k8s.io/kubelet"}


def record(*events: dict[str, str], name: str = "CVE-2026-1", **more: Any) -> dict[str, Any]:
    """As in the repository cve-feed-osv."""
    affected = {"package": OURS, "ranges": [{"type": "SEMVER", "events": list(events)}]}
    times = {"modified": "2026-11-02T16:10:31Z", "published": "2026-11-01T00:00:00Z"}
    return {"id": name, **times, "summary": "A kubelet does", "affected": [affected], **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "feed/vulns").mkdir(parents=True)
    return tmp_path / "feed"


def write(folder: Path, *records: dict[str, Any]) -> Path:
    for each in records:
        (folder / "vulns" / f"{each['id']}.json").write_text(json.dumps(each))
    return folder


BRANCHES = (
    *({"introduced": "1.35.0"}, {"fixed": "1.35.7"}),
    *({"introduced": "1.36.0"}, {"fixed": "1.36.3"}),
    *({"introduced": "1.37.0"}, {"fixed": "1.37.1"}),
)
FIXED = "fixed in {}: CVE-2026-1 (A kubelet does)"
AFFECTED = "Kubernetes {} is affected: CVE-2026-1 (A kubelet does)"


@pytest.mark.parametrize(
    ("events", "before", "after", "found"),
    [
        (BRANCHES, "1.36.1", "1.36.3", FIXED),
        (BRANCHES, "1.36.1", "1.36.2", AFFECTED),
        (BRANCHES, "1.36.3", "1.36.4", ""),
        (BRANCHES, "1.36.3", "1.37.0", AFFECTED),
        (BRANCHES, "1.34.9", "1.34.9", ""),
        (BRANCHES, "1.36.9", "1.36.10", ""),
        (BRANCHES[::-1], "1.36.1", "1.36.3", FIXED),
        (({"introduced": "0"},), "1.36.1", "1.36.3", AFFECTED),
        (({"introduced": "0"}, {"fixed": "1.36.2"}), "1.34.1", "1.36.2", FIXED),
        (({"introduced": "0"}, {"last_affected": "1.36.2"}), "1.36.1", "1.36.2", AFFECTED),
        (({"introduced": "0"}, {"last_affected": "1.36.2"}), "1.36.2", "1.36.3", FIXED),
        (({"introduced": "1.37.0-alpha.1"}, {"fixed": "1.37.0"}), "1.36.3", "1.37.0", ""),
        (({"introduced": "v1.36.0"}, {"fixed": "1.37.0-rc.1"}), "1.36.3", "1.37.0", FIXED),
    ],
)
def test_versions_are_compared_as_the_schema_says(
    events: tuple[dict[str, str], ...], before: str, after: str, found: str, folder: Path
) -> None:
    known = read(write(folder, record(*events)))
    assert list(compare(known, before, after)) == ([found.format(after)] if found else [])
    assert read(folder / "vulns/CVE-2026-1.json") == read(folder / "vulns") == known


@pytest.mark.parametrize(
    ("ecosystem", "name", "ours"),
    [
        ("Kubernetes", "k8s.io/kube-apiserver", True),
        ("kubernetes", "k8s.io/kubernetes", True),
        ("Go", "k8s.io/kubernetes", True),
        ("Go", "k8s.io/kubelet", False),
        ("kubernetes", "k8s.io/ingress-nginx", False),
        ("npm", "k8s.io/kubernetes", False),
    ],
)
def test_other_programs_have_versions_of_their_own(ecosystem: str, name: str, ours: bool, folder: Path) -> None:
    ranges = [{"type": "SEMVER", "events": [{"introduced": "0"}]}]
    other = record(name="CVE-2", affected=[{"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges}])
    found = read(write(folder, record({"introduced": "0"}), other))
    assert {each.name for each in found} == {"CVE-2026-1", *["CVE-2"] * ours}


def test_what_was_withdrawn_is_left_out(folder: Path) -> None:
    gone = record({"introduced": "0"}, name="CVE-2", withdrawn="2026-11-03T00:00:00Z")
    (found,) = read(write(folder, record({"introduced": "0"}), gone))
    assert found.name == "CVE-2026-1"


FEED = {"version": "https://jsonfeed.org/version/1.1", "items": [{"id": "CVE-2026-1", "content_text": "1.36.0"}]}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "7", "{", "[" * 100_000, json.dumps(FEED)),
        json.dumps(record({"introduced": "soon"})),
        json.dumps(record({"introduced": "0"}, {"limit": "1.36.0"})),
        json.dumps(record({"introduced": "0"}, name="a\x1b[2J")),
        json.dumps(record({"introduced": "0"}, modified="soon")),
        json.dumps(record(affected=[{"package": OURS, "ranges": []}])),
        json.dumps(record(affected=[{"package": OURS, "ranges": [{"type": "GIT", "events": []}]}])),
    ],
)
def test_what_is_no_advisory_is_named(text: str, folder: Path) -> None:
    (write(folder, record({"introduced": "0"})) / "vulns/CVE-0.json").write_text(text)
    with pytest.raises(UsageError, match=r"vulns/CVE-0\.json: no advisory in the format of OSV; name a copy of"):
        read(folder)


def test_an_advisory_that_is_too_large_is_named(folder: Path) -> None:
    large = record({"introduced": "0"}, details="x" * advisories.MAX_BYTES)
    with pytest.raises(UsageError, match=r"CVE-\S+\.json: larger than 5,000,000 bytes"):
        read(write(folder, large))


def test_a_place_without_advisories_is_refused(folder: Path) -> None:
    for place in (folder, folder / "gone"):
        with pytest.raises(UsageError, match=r"0 advisories; name a copy|can't be read: No such file"):
            read(place)
    other = record(affected=[{"package": {"ecosystem": "kubernetes", "name": "x"}, "ranges": []}])
    with pytest.raises(UsageError, match="no advisory of Kubernetes; name a copy"):
        read(write(folder, other))


def test_a_summary_is_one_short_line(folder: Path) -> None:
    (found,) = read(write(folder, record({"introduced": "0"}, summary="a\n\x1b[2Jb" + "c" * 1000)))
    assert found.summary == f"a[2Jb{'c' * 115}"


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.mktemp("any") / "x.json"
    for each in (value, {"id": "x", "modified": "2026-01-01", "affected": [{"package": OURS, "ranges": value}]}):
        file.write_text(json.dumps(each))
        with pytest.raises(UsageError):
            read(file)


@pytest.mark.parametrize(
    ("before", "after", "lines", "error"),
    [
        ("1.36.1", "1.36.3", ["kubernetes: 1.36.1 → 1.36.3", FIXED.format("1.36.3")], ""),
        ("1.36.3", "1.36.3", ["no advisory for Kubernetes 1.36.3"], ""),
        ("1.36.3", "", [], "advisories were not compared: '' is no version"),
    ],
)
def test_update_lock_says_what_it_fixes(
    before: str,
    after: str,
    lines: list[str],
    error: str,
    folder: Path,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(folder, record(*BRANCHES))
    render.plan(cluster.cluster).apply()
    old = lock_of(cluster.cluster)
    cluster.workspace.flake_lock.write_bytes(old)
    versions = iter([{"kubernetes": before}, {"kubernetes": after} if after else {}])
    monkeypatch.setattr(flake, "lock", lambda _files, *, update: old)
    monkeypatch.setattr(flake, "versions", lambda _files, _node: next(versions))
    words = ["smallkube", "--workspace", str(cluster.workspace.root), "nix.render", "--advisories", str(folder)]
    main([*words, "--update-lock"])
    said = capsys.readouterr()
    assert said.out.splitlines() == lines
    assert "advisories of Kubernetes read: 1, the newest of 2026-11-02" in said.err
    assert error in said.err
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "--advisories is for --update-lock" in capsys.readouterr().err
