"""How fast `inv --list`, `inv --help` and inventory.check answer, against a bare Invoke collection of as many tasks."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.harness import INV, Plan, Row, absent, command, compare
from lab.tasks import collection
from smallkube.cli.app import tree
from smallkube.core.workspace import REPOSITORY, Workspace

BARE = '@task\ndef hello{0}(c):\n    "Print hello {0}."\n    print("hello")\n'
INVENTORY = "cluster: {name: bench}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"


def rows(plan: Plan) -> Iterator[Row]:
    if absent("inv --list", INV):
        return
    plan = replace(plan, runs=plan.runs * 3)  # short ones
    with tempfile.TemporaryDirectory() as folder:
        tasks = map(BARE.format, range(len(tree(collection).task_names)))
        (Path(folder) / "tasks.py").write_text("\n\n".join(("from invoke import task\n", *tasks)))
        bare = command([INV, "--list"], cwd=Path(folder))
        goal = "at most 1.15 times"
        yield compare(plan, "inv --list", command([INV, "--list"], cwd=REPOSITORY), "bare Invoke", bare, goal)
        helped = command([INV, "--help", "deploy"], cwd=REPOSITORY)
        yield compare(plan, "inv --help deploy", helped, "bare Invoke", bare, goal)
        workspace = Workspace(Path(folder))
        workspace.inventory_file.write_text(INVENTORY)
        environment = {**os.environ, "SMALLKUBE_WORKSPACE": folder}
        check = command([INV, "inventory.check"], cwd=REPOSITORY, env=environment)

        def edited() -> None:
            workspace.verified_file.unlink(missing_ok=True)
            check()

        yield compare(plan, "inventory.check after an edit", edited, "bare Invoke", bare)
        yield compare(plan, "inventory.check again", check, "bare Invoke", bare, "at most 1.6 times")
