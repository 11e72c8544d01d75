"""How long rendering takes, and evaluation of every node by the lab's evaluator; both are to grow linearly."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.harness import INV, Plan, Row, absent, compare
from bench.secrets import Fresh, make_workspace
from lab.checks import evaluate
from smallkube.core import process
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix import bundle, render


def rows(plan: Plan) -> Iterator[Row]:
    if absent("nix.render", INV, "ssh-keygen"):
        return
    for nodes in plan.nodes:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(Path(folder))
            make_workspace(workspace.root, nodes)
            Fresh(workspace.root)()
            goal = "under 1 s for 254 nodes"
            yield compare(plan, f"nix.render, {nodes} nodes", partial(_render, workspace), goal=goal)
            if nodes == min(plan.nodes):
                yield from _evaluation(plan, workspace, nodes)


def _render(workspace: Workspace) -> None:
    shutil.rmtree(workspace.nix_dir, ignore_errors=True)
    render.plan(Cluster(workspace, load(workspace.inventory_file))).apply()


def _evaluation(plan: Plan, workspace: Workspace, nodes: int) -> Iterator[Row]:
    program = process.find("nix-instantiate")
    if program is None:
        absent("evaluation", "nix-instantiate")
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        bundle.write_tree(bundle.assemble(Cluster(workspace, load(workspace.inventory_file))).files, tree)
        for count in plan.evaluated:
            names = [f"node{index}" for index in range(1, count + 1)]
            work = partial(_evaluate, program, tree, names)
            yield compare(plan, f"evaluation of {count} nodes of {nodes}", work, goal="linear")


def _evaluate(program: str, tree: Path, names: list[str]) -> None:
    evaluate.evaluate(program, tree, names)
