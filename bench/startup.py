"""How fast `inv --list` and `inv --help` answer, against a bare Invoke collection with one task."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import INV, Plan, Row, absent, command, compare
from smallkube.core.workspace import REPOSITORY

BARE = "from invoke import task\n\n\n@task\ndef hello(c):\n    print('hello')\n"


def rows(plan: Plan) -> Iterator[Row]:
    if absent("inv --list", INV):
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tasks.py").write_text(BARE)
        bare = command([INV, "--list"], cwd=Path(folder))
        goal = "at most 1.3 times"
        yield compare(plan, "inv --list", command([INV, "--list"], cwd=REPOSITORY), "bare Invoke", bare, goal)
        helped = command([INV, "--help", "deploy"], cwd=REPOSITORY)
        yield compare(plan, "inv --help deploy", helped, "bare Invoke", bare, goal)
