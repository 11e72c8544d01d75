"""What tasks print at 80 columns and into a pipe, compared with files: nothing is wider or broken within a word."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from invoke.collection import Collection
from invoke.exceptions import Exit

from lab.tasks import collection as lab
from smallkube.cli.app import tree
from smallkube.cli.context import Current, _Task
from smallkube.core.errors import SmallkubeError
from smallkube.remote.fake import FakeHost, reply
from tests.unit import shown, shown_workspace
from tests.unit.conftest import Open
from tests.unit.fake_cluster import FakeCluster
from tests.unit.screen import plain

SHOWN = {**shown.SHOWN, **shown_workspace.SHOWN}
GOLDEN = Path(__file__).with_name("golden")
CHANGES = frozenset(
    {"cluster.kubeconfig", "cluster.support", "etcd.backup", "etcd.drill", "keys.edit", "keys.new-host", "lab.addons"}
    | {"lab.conformance", "lab.down", "lab.kubernetes", "lab.up", "nix.render", "nodes.add", "nodes.uncordon"}
    | {"users.add", "users.kubeconfig"}
)
"""They have neither --yes nor --dry-run, and write files or change machines all the same."""
ELSEWHERE = {
    "cluster.conformance": "a line for each test of upstream's: tests/unit/test_conformance.py",
    "cluster.connect": "stays until Ctrl-C: tests/cluster/test_getting_started.py",
    "cluster.report": "a page: tests/integration/test_report_page.py",
    "etcd.schedule": "lines that cron must have whole, with the paths of this machine: tests/unit",
    "inventory.schema": "JSON, for editors",
    "keys.show": "a secret, byte for byte",
    "lab.shell": "what a shell on the machine prints",
    "nodes.exec": "what the command on the machines prints",
    "nodes.logs": "lines of journals, whole",
}
"""Task that only reads → why its output is in no golden file."""


def tasks(within: Collection, prefix: str = "") -> Iterator[tuple[str, _Task]]:
    """Each task under the name that runs it."""
    for name, task in within.tasks.items():
        yield prefix[:-1] if within.default == name else prefix + name, task
    for name, inner in within.collections.items():
        yield from tasks(inner, f"{prefix}{name}.")


def test_every_task_that_reads_is_compared_or_says_why_not() -> None:
    every = dict(tasks(tree(lab)))
    reads = {name for name, task in every.items() if not {"yes", "dry-run"}.intersection(task.common)} - CHANGES
    assert {name.removesuffix("-problems") for name in SHOWN} | CHANGES <= every.keys()
    assert reads - SHOWN.keys() - ELSEWHERE.keys() == set(), "show it in tests/unit/shown.py, or say why not here"
    assert ELSEWHERE.keys() <= reads and not SHOWN.keys() & ELSEWHERE.keys()
    assert {path.stem for path in GOLDEN.iterdir()} == SHOWN.keys()


def run(task: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it; what it complains of is on standard error."""
    with suppress(SmallkubeError, Exit), monkeypatch.context() as patch:
        SHOWN[task](cluster, patch)


@pytest.mark.parametrize("task", SHOWN)
def test_output_fits_80_columns(
    task: str, cluster: FakeCluster, terminal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: FakeHost(node, lambda _: reply()))
    wide = terminal(400)
    run(task, cluster, monkeypatch)
    narrow = terminal(80)
    run(task, cluster, monkeypatch)
    lines = plain(narrow.text)
    assert max(map(len, lines)) <= 80
    words = plain(wide.text)
    long = [word for line in words for word in line.split() if len(word) > 24]
    broken = {word for line in lines for word in line.split()} - {word for line in words for word in line.split()}
    assert [word for word in broken if not any(word in each for each in long)] == []
    piped = terminal(80, tty=False)
    run(task, cluster, monkeypatch)
    assert "\x1b" not in piped.text
    output = "\n".join(("# 80 columns", *lines, "", "# piped", piped.text))
    file = GOLDEN / f"{task}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(output)
    assert output == file.read_text(), "if that is wanted: UPDATE_GOLDEN=1"
