"""What a deploy shows while it builds, its log, and what it says of closures."""

import os
from pathlib import Path

import pytest

from smallkube.cli import deploy
from smallkube.cli.context import Current
from smallkube.core import ui
from smallkube.deploy import node_log
from smallkube.deploy.plan import Report
from smallkube.remote.fleet import NodeOutcome
from smallkube.remote.host import MAX_LINE

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
BUILD = f"""these 2 derivations will be built:
  /nix/store/{HASH}-etc.drv
  /nix/store/{HASH}-nixos-system.drv
these 3 paths will be fetched (1.20 MiB download, 5.00 MiB unpacked):
  /nix/store/{HASH}-glibc
copying path '/nix/store/{HASH}-glibc' from 'https://cache.nixos.org'...
building '/nix/store/{HASH}-etc.drv'...
this derivation will be built:
building '/nix/store/{HASH}-nixos-system.drv'...
"""
Capture = pytest.CaptureFixture[str]


def test_build_is_counted_whatever_the_pieces(tmp_path: Path) -> None:
    shown: list[tuple[str, str]] = []
    log = node_log.NodeLog(tmp_path / "logs" / "x.log", lambda line, counts: shown.append((line, counts)))
    for at in range(0, len(BUILD), 7):
        log.build(BUILD[at : at + 7].encode())
    assert [line for line, _ in shown] == [line.strip() for line in BUILD.splitlines()]
    assert shown[0][1] == "building 0 of 2"
    assert log.counts == "building 2 of 3, copying 1 of 3"
    assert log.file.read_text() == BUILD


def test_lines_of_a_build_are_bounded(tmp_path: Path) -> None:
    shown: list[str] = []
    log = node_log.NodeLog(tmp_path / "x.log", lambda line, _: shown.append(line))
    for _ in range(40):
        log.build(b"\xff" * (1 << 14))
    log.build(b"\nthese 99999999999999999999 derivations will be built:\n")
    assert len(log._part) <= 1 << 16
    assert (len(shown[0]), log.counts) == (MAX_LINE, "")


def test_only_the_newest_logs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_log, "KEPT", 3)
    for number in range(6):
        (tmp_path / f"{number}.log").touch()
        os.utime(tmp_path / f"{number}.log", (number, number))
    (tmp_path / "other").touch()
    node_log.prune(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["3.log", "4.log", "5.log", "other"]
    node_log.prune(tmp_path / "missing")


def test_output_is_shown_now_and_then_or_verbosely(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, verbose = ui.Progress(["node1"]), ui.Progress(["node1"], verbose=True)
    for progress in (quiet, verbose):
        progress.step("node1", "build")
        progress.output("node1", "first\x1b[2J", "building 1 of 2")
    assert capsys.readouterr().err.splitlines() == ["node1: build", "node1: build", r"node1: first\x1b[2J"]
    monkeypatch.setattr(quiet, "PLAIN_EVERY", 0.0)
    quiet.output("node1", "second", "building 2 of 2")
    assert capsys.readouterr().err == "node1: build: building 2 of 2: second\n"


@pytest.mark.parametrize("verbose", [True, False])
def test_difference_of_closures_is_a_count(verbose: bool, capsys: Capture) -> None:
    report = Report("node1", NodeOutcome.DEPLOYED, difference="etcd: 3.6.4 → 3.6.5\nglibc: +12.0 KiB")
    deploy._show(Current(verbose=verbose), [report])
    lines = ["node1: etcd: 3.6.4 → 3.6.5", "node1: glibc: +12.0 KiB"]
    assert capsys.readouterr().err.splitlines() == (
        lines if verbose else ["node1: 2 packages differ (--verbose lists them)"]
    )


def test_journal_of_failed_units_is_shown(capsys: Capture) -> None:
    deploy._show(Current(), [Report("node1", NodeOutcome.ROLLED_BACK, journal={"kubelet.service": "why"})])
    assert capsys.readouterr().err == "--- node1: journal of kubelet.service\nwhy\n"
