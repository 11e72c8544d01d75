"""`smallkube`: the workspace, wrong words, and what the shell completes."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube import __version__
from smallkube.cli.app import needed, tree
from smallkube.cli.completion import FLAGS, WORDS, values
from smallkube.cli.program import main, workspace_above
from smallkube.core.workspace import Workspace
from smallkube.secrets import people
from tests.leaks import RECIPIENT
from tests.unit.fake_cluster import FakeCluster

TREE = tree()

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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nodes.remove", {"node1", "node2"}),
        ("nodes.remove no", {"node1", "node2"}),
        ("nodes.logs ku", {"kubelet", "etcd", "kube-apiserver"}),
        ("keys.show", {"kube_token_root", "wgkube2.key"}),
        ("keys.edit", {"EncryptionConfiguration.yaml"}),
        ("tokens.rotate --user", {"root", "kube-scheduler"}),
        ("cluster.smoke --only", {"network", "api.ready"}),
        ("cluster.smoke --only network,a", {"network,api.ready", "network,dns"}),
        ("users.add alice --role", {"view", "cluster-admin"}),
        ("users.remove", {"alice"}),
        ("admins.remove", {"anna"}),
        ("cluster.smoke --pull-policy", {"Never"}),
        ("deploy --node node1,", {"node1,node2"}),
        ("deploy --build-on", {"target", "local"}),
    ],
)
def test_names_are_those_of_the_workspace(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, line: str, expected: set[str]
) -> None:
    workspace = cluster.workspace
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    text = workspace.inventory_file.read_text()
    admins = f"  secrets: {{admins: {{anna: {RECIPIENT}}}}}\n"
    workspace.inventory_file.write_text(text.replace("cluster:\n", f"cluster:\n{admins}"))
    alice = people.Person("alice", (), "edit", "", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
    workspace.users_file.write_bytes(people.render({"alice": alice}))
    assert expected <= {*values(f"smallkube {line}")}


@pytest.mark.parametrize(
    "line", ["", "deploy", "nodes.remove node2 --yes", "deploy --batch", "cluster.audit --limit 5", "keys.show 'kube"]
)
def test_what_is_not_known_is_not_completed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    assert values(f"smallkube {line}") == []


def test_a_flag_with_few_values_is_completed() -> None:
    """Its help has them as "this | that"; and what is completed exists."""
    flags = {(task, f"--{flag.names[0]}"): flag for task in TREE.task_names for flag in TREE[task].get_arguments()}
    few = {key for key, flag in flags.items() if flag.takes_value and re.search(r"\w \| \w", flag.help)}
    assert few and all(f"{task} {flag}" in FLAGS or flag in FLAGS for task, flag in few)
    assert {name for name in FLAGS if " " in name} <= {" ".join(key) for key in flags}
    assert {name for name in FLAGS if " " not in name} <= {flag for _, flag in flags}
    assert WORDS.keys() <= TREE.task_names.keys()


def test_a_broken_inventory_completes_nothing(smallkube: Smallkube, workspace: Workspace) -> None:
    workspace.inventory_file.write_text("{")
    status, _, error = smallkube("--complete", "--", "smallkube deploy --node")
    assert (status, error) == (0, "")


def test_the_completion_script_is_for_the_shell(smallkube: Smallkube) -> None:
    status, script, error = smallkube("--print-completion-script", "bash")
    assert (status, error) == (0, "")
    assert "complete -F _complete_smallkube" in script


@pytest.mark.parametrize("name", TREE.task_names)
def test_a_named_task_has_all_its_flags(name: str) -> None:
    typed = ([*TREE.task_names[name], name])[0]
    flags = [(each.names, each.help, each.kind) for each in TREE[name].get_arguments()]
    found = needed(f"--help {typed}")
    assert [(each.names, each.help, each.kind) for each in found[typed].get_arguments()] == flags
    assert found.task_names == TREE.task_names


def test_a_task_that_is_not_named_is_only_listed() -> None:
    found = needed("keys.check")
    assert found["nodes.logs"].get_arguments() == []
    assert found["nodes.logs"].__doc__ == "Show the journal of a unit on the nodes."


@pytest.mark.parametrize("line", ["deploy --nod"])
def test_flags_of_a_task_are_completed(smallkube: Smallkube, line: str) -> None:
    words = smallkube("--complete", "--", f"smallkube {line}")[1].split()
    assert {"--node", "--dry-run", "--goal"} <= set(words)
