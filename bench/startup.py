"""How fast `inv --list` and `inv --help` answer, against a bare Invoke collection of the same number of tasks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import INV, Plan, Row, absent, command, compare
from lab.tasks import collection
from smallkube.cli.app import tree
from smallkube.core.workspace import REPOSITORY

BARE = '@task\ndef hello{0}(c):\n    "Print hello {0}."\n    print("hello")\n'


def rows(plan: Plan) -> Iterator[Row]:
    if absent("inv --list", INV):
        return
    with tempfile.TemporaryDirectory() as folder:
        tasks = map(BARE.format, range(len(tree(collection).task_names)))
        (Path(folder) / "tasks.py").write_text("\n\n".join(("from invoke import task\n", *tasks)))
        bare = command([INV, "--list"], cwd=Path(folder))
        goal = "at most 1.25 times"
        yield compare(plan, "inv --list", command([INV, "--list"], cwd=REPOSITORY), "bare Invoke", bare, goal)
        helped = command([INV, "--help", "deploy"], cwd=REPOSITORY)
        yield compare(plan, "inv --help deploy", helped, "bare Invoke", bare, goal)
