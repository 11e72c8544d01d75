"""The command line as a person meets it: the list fits 80 columns, every flag is explained, faults are one line.

One task is tried with every foreseeable fault of its workspace, one that takes --node with every unknown node, and
every other task with one of these; each stops it before it would use the network or another program.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, product

import pytest
from invoke.main import program

from lab.tasks import collection
from smallkube.cli.app import tree
from smallkube.core.workspace import REPOSITORY, Workspace
from tests.leaks import RECIPIENT

namespace = tree(collection)
TASKS = sorted(namespace.task_names)
ALL_FLAGS = {name: namespace[name].get_arguments() for name in TASKS}
FLAGS = {name: [flag.names[0] for flag in flags] for name, flags in ALL_FLAGS.items()}
SUMMARY = 48
"""Characters of a task's summary that the list shows on one line of 80 columns."""

ON_THE_LAB = {name for name in TASKS if name.startswith("lab.")}
ON_A_WORKSPACE = [name for name in TASKS if name not in {"init", "inventory.schema", *ON_THE_LAB}]
ON_AN_INVENTORY = [name for name in ON_A_WORKSPACE if name != "doctor"]
WITH_NODE = [name for name in ON_AN_INVENTORY if "node" in FLAGS[name]]
WITHOUT_NODE = [name for name in ON_AN_INVENTORY if "node" not in FLAGS[name]]
ARGUMENTS = {
    "inventory.import": ["/dev/null"],
    "admins.add": ["bob", "--recipient", RECIPIENT],
    "admins.remove": ["bob", "--yes"],
    "nodes.add": ["node9", "--peer-ip", "192.0.2.9"],
    "nodes.install": ["node2", "/nonexistent"],
    "nodes.logs": ["kubelet"],
    "nodes.remove": ["node2", "--yes"],
    "nodes.reset": ["--node", "node3", "--ssh-host", "192.0.2.3", "--yes"],
    "nodes.drain": ["--node", "node2", "--yes"],
    "nodes.uncordon": ["--node", "node2"],
    "nodes.reboot": ["--yes"],
    "nodes.exec": ["--", "true"],
    "cluster.conformance": ["--program", "e2e.test"],
    "keys.new-host": ["node2", "/nonexistent"],
    "keys.show": ["kube_token_root"],
    "keys.edit": ["kube_token_root"],
    "users.add": ["alice"],
    "users.kubeconfig": ["alice"],
    "users.remove": ["alice", "--yes"],
}

MISSING = "missing"
FOLDER = "a folder"
HOSTILE = {
    "not YAML": b"cluster: [\n",
    "not a mapping": b"- 1\n",
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "runs code": b"!!python/object/apply:os.system ['touch hacked']\n",
    "too deep": b"[" * 5000,
    "bomb": b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120)),
    "terminal escapes": b'cluster: {name: "\\e[2J\\nTraceback"}\nnodes: {node1: {peer_ip: 192.0.2.1}}\n',
    "several problems": b"cluster: {name: x, color: red}\nnodes: {node2: {peer_ip: 127.0.0.1}, node0: {peer_ip: 1}}\n",
    "a key twice": b"cluster: {name: x}\ncluster: {name: y}\nnodes: {node1: {peer_ip: 192.0.2.1}}\n",
}
FAULTS = [MISSING, FOLDER, *HOSTILE]
"""What inventory.yaml is."""
UNKNOWN_NODES = ["node7", "node2,node7", "../etc", "\x1b[2J\n"]


def diagonal(whole: str, tasks: list[str], faults: list[str]) -> list[tuple[str, str]]:
    """Each fault with the task ``whole``, and every other task with one of them: they all read the same way."""
    others = [task for task in tasks if task != whole]
    return [*product([whole], faults), *zip(others, cycle(faults), strict=False)]


@dataclass(frozen=True)
class Said:
    """How a task ended."""

    status: int
    output: str
    errors: list[str]


Run = Callable[..., Said]


@pytest.fixture
def run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one task on the workspace as its command line would; an exception that escapes fails the test."""
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    monkeypatch.delenv("SMALLKUBE_DEBUG", raising=False)
    monkeypatch.chdir(workspace.root)

    def inv(*words: str) -> Said:
        argv = ["inv", "--search-root", str(REPOSITORY), *words]
        monkeypatch.setattr(sys, "argv", argv)
        status: object = 0
        try:
            program.run(argv)
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return Said(int(str(status or 0)), captured.out, captured.err.splitlines())

    return inv


def arguments(task: str, *before: str) -> list[str]:
    """The task with arguments that are right, ``before`` them others."""
    return [task, *before, *ARGUMENTS.get(task, [])]


def refused(said: Said, lines: int | None = 1) -> str:
    assert said.status == 2, said
    assert said.errors and (lines is None or len(said.errors) == lines), said
    assert all(line.isprintable() and line.strip() for line in said.errors), said
    assert not any(line.startswith("Traceback") for line in said.errors), said
    return said.errors[0]


def test_list_has_one_line_of_80_columns_per_task() -> None:
    argv = [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), "--list"]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    _, *lines = filter(None, done.stdout.splitlines())
    assert sorted(line.split()[0] for line in lines) == sorted({*TASKS} - {"deploy"} | {"deploy.deploy"})
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("task", TASKS)
def test_summary_is_one_short_line(task: str) -> None:
    paragraphs = (namespace[task].__doc__ or "").strip().split("\n\n")
    assert "\n" not in paragraphs[0] and 0 < len(paragraphs[0]) <= SUMMARY
    assert paragraphs[0].endswith(".")


@pytest.mark.parametrize("task", TASKS)
def test_help_explains_each_flag_in_80_columns(task: str, run: Run) -> None:
    assert all(flag.help for flag in ALL_FLAGS[task])
    said = run("--help", task)
    assert (said.status, said.errors) == (0, [])
    assert namespace[task].__doc__.strip().splitlines()[0] in said.output
    for flag in FLAGS[task]:
        assert f"--{flag}" in said.output or f"--[no-]{flag}" in said.output
    assert max(map(len, said.output.splitlines()[1:])) <= 80


def test_missing_workspace_is_refused_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", "/nonexistent/workspace")
    for task in ("doctor", "inventory.check"):
        assert "SMALLKUBE_WORKSPACE=/nonexistent/workspace: no such folder" in refused(run(*arguments(task)))


@pytest.mark.parametrize(("task", "fault"), diagonal("inventory.check", WITHOUT_NODE, FAULTS))
def test_hostile_inventory_is_refused(task: str, fault: str, run: Run, workspace: Workspace) -> None:
    file = workspace.inventory_file
    if fault == MISSING:
        file.unlink()
    elif fault == FOLDER:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(HOSTILE[fault])
    said = run(*arguments(task))
    refused(said, lines=None)
    assert all("inventory.yaml" in line for line in said.errors), said
    assert [path.name for path in workspace.root.iterdir()] == ([] if fault == MISSING else ["inventory.yaml"])
    assert not file.is_file() or file.read_bytes() == HOSTILE[fault]


@pytest.mark.parametrize(("task", "node"), diagonal("keys.scan", WITH_NODE, UNKNOWN_NODES))
def test_unknown_node_is_refused(task: str, node: str, run: Run, workspace: Workspace) -> None:
    unknown = node.rsplit(",", maxsplit=1)[-1]
    assert repr(unknown)[1:-1].split("\\")[0] in refused(run(*arguments(task, "--node", node)))
    assert [path.name for path in workspace.root.iterdir()] == ["inventory.yaml"]


@pytest.mark.parametrize("words", [["nothing.here"], ["keys.check", "--nothing"], ["keys.scan", "--timeout", "soon"]])
def test_wrong_flags_are_refused_in_one_line(words: list[str], run: Run) -> None:
    said = run(*words)
    assert said.status != 0 and len(said.errors) == 1, said


WITH_VALUE = [
    (task, argument.names[0].replace("_", "-"), argument.kind is list)
    for task in ON_A_WORKSPACE
    for argument in ALL_FLAGS[task]
    if argument.takes_value
]
FIRST = {flag: task for task, flag, _ in reversed(WITH_VALUE)}
"""Flag → a task that has it, with which all that could be meant is tried."""


@pytest.mark.parametrize(("task", "flag", "repeatable"), WITH_VALUE)
def test_a_flag_without_its_value_is_refused(
    task: str, flag: str, repeatable: bool, run: Run, workspace: Workspace
) -> None:
    """Taken as if it were not there, it would mean what no flag means: every node, the latest backup."""
    values: list[list[str]] = [[""], *([["node1,"], []] if repeatable and FIRST[flag] == task else [])]
    for value in values:
        assert refused(run(task, f"--{flag}", *value)).startswith(f"--{flag}: ")
    assert [path.name for path in workspace.root.iterdir()] == ["inventory.yaml"]


@pytest.mark.parametrize(
    "words",
    [["--dry"], ["-e"], ["-p"], ["-w"], ["--hide", "both"], ["-T", "5"]],
)
def test_flags_of_invoke_without_effect_are_refused(words: list[str], run: Run) -> None:
    before, after = run(*words, "inventory.check"), run("inventory.check", *words)
    assert refused(before) == refused(after)
    assert refused(before).startswith("--")
