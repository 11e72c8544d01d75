"""`smallkube`: the workspace, wrong words, and what the shell completes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube import __version__
from smallkube.cli.program import main, workspace_above
from smallkube.core.workspace import Workspace

Smallkube = Callable[..., tuple[int, str, str]]


@pytest.fixture
def smallkube(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Smallkube:
    """Run it in the workspace's folder: its status, standard output and error."""
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", "")  # so that it is put back after the test
    monkeypatch.chdir(workspace.root)

    def run(*words: str) -> tuple[int, str, str]:
        os.environ.pop("SMALLKUBE_WORKSPACE", None)
        status: object = 0
        try:
            main(["smallkube", *words])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return int(str(status or 0)), captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["deplyo"], "no task 'deplyo'; did you mean deploy?"),
        (["xyzzy"], "no task 'xyzzy'; smallkube --list shows all"),
        (["--help", "deplo"], "no task 'deplo'; did you mean deploy?"),
        (["deploy", "--nod", "node1"], "deploy.deploy has no flag --nod; did you mean --node?"),
        (["deploy", "--goal"], "--goal: no value given"),
        (["deploy", "--node"], "--node: no value given"),
        (["deploy", "--node", "--dry-run"], "--node: no value given"),
        (["-T", "x", "inventory.check"], "--command-timeout: 'x' is not a whole number"),
    ],
)
def test_wrong_words_are_one_line_with_the_nearest(smallkube: Smallkube, words: list[str], line: str) -> None:
    assert smallkube(*words) == (2, "", f"{line}\n")


def test_the_workspace_is_found_upwards(smallkube: Smallkube, workspace: Workspace, tmp_path: Path) -> None:
    below = workspace.root / "nix" / "hosts"
    below.mkdir(parents=True)
    os.chdir(below)
    assert smallkube("inventory.check")[:2] == (0, "inventory.yaml: valid, 2 nodes\n")
    assert workspace_above(below) == workspace.root


def test_the_workspace_can_be_named(smallkube: Smallkube, workspace: Workspace) -> None:
    os.chdir("/")
    assert smallkube("--workspace", str(workspace.root), "inventory.check")[0] == 0
    status, _, error = smallkube("--workspace", "/nonexistent", "inventory.check")
    assert status == 2 and "/nonexistent: no such folder" in error


def test_the_version_is_the_packages(smallkube: Smallkube) -> None:
    assert smallkube("--version")[1] == f"smallkube {__version__}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("deploy --node", ["node1", "node2"]),
        ("deploy --node no", ["node1", "node2"]),
        ("deploy --goal", ["switch", "boot", "test", "dry-activate", "build"]),
        ("deploy --tag", ["blue"]),
        ("nodes.exec --role wo", ["primary", "worker"]),
        ("etcd.restore --name", []),
    ],
)
def test_values_of_flags_are_completed(smallkube: Smallkube, workspace: Workspace, line: str, words: list[str]) -> None:
    with workspace.inventory_file.open("a") as file:
        file.write("    tags: [blue]\n")
    status, out, _ = smallkube("--complete", "--", f"smallkube {line}")
    assert status == 0
    assert [word for word in out.split() if "." not in word and word not in ("doctor", "deploy")] == words


def test_a_broken_inventory_completes_nothing(smallkube: Smallkube, workspace: Workspace) -> None:
    workspace.inventory_file.write_text("{")
    status, _, error = smallkube("--complete", "--", "smallkube deploy --node")
    assert (status, error) == (0, "")


def test_the_completion_script_is_for_the_shell(smallkube: Smallkube) -> None:
    status, script, error = smallkube("--print-completion-script", "bash")
    assert (status, error) == (0, "")
    assert "complete -F _complete_smallkube" in script
