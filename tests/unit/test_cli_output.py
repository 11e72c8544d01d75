"""What several namespaces show in the same way: JSON or text, the steps of a dry run, confirmation, reports."""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from smallkube.cli import output
from smallkube.cli.context import Current
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.remote.fleet import NodeOutcome, Report

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Part:
    name: str
    path: Path


def test_json_has_dataclasses_as_objects(capsys: Capture) -> None:
    ui.json_result({"parts": (Part("a", Path("/b")),), "none": None})
    assert json.loads(capsys.readouterr().out) == {"parts": [{"name": "a", "path": "/b"}], "none": None}


@pytest.mark.parametrize(("as_json", "shown"), [(False, "one\ntwo\n"), (True, '[\n  "one",\n  "two"\n]\n')])
def test_dry_run_prints_each_step(
    as_json: bool, shown: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    here = Current(dry_run=True, json=as_json)
    assert not output.begin(here, ("one", "two"), "do it?", here.inventory.nodes[1:])
    where = f"dry run: cluster test, workspace {workspace.root}\n"
    assert capsys.readouterr() == (shown, f"{where}would connect to node2 (root@192.168.0.2:22)\n")


def test_confirmation_without_terminal_needs_yes(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert output.begin(Current(yes=True), ["one", "two"], "change it?", ())
    assert capsys.readouterr() == ("", "- one\n- two\n")
    with pytest.raises(UsageError, match=r"^change it\? confirmation required; pass --yes$"):
        output.begin(Current(), [], "change it?", ())


def test_reports_name_the_nodes_that_failed(capsys: Capture) -> None:
    reports = [Report("node1", NodeOutcome.DRAINED, 1.0), Report("node2", NodeOutcome.FAILED, 2.0, "no answer")]
    with pytest.raises(SmallkubeError, match=r"^node2 failed$"):
        output.show_reports(Current(), reports)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["node2", "failed", "2.0", "no", "answer"]
