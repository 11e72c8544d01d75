"""How long rendering takes, and evaluation of every node by the lab's evaluator; both are to grow linearly."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Row, command, compare
from bench.secrets import Fresh, make_workspace
from smallkube.inventory import load
from smallkube.nix import check, render
from smallkube.remote import bundle
from smallkube.workspace import REPOSITORY, Workspace


def rows() -> Iterator[Row]:
    for nodes in (50, 254):
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(Path(folder))
            make_workspace(workspace.root, nodes)
            Fresh(workspace.root)()

            def rendered(workspace: Workspace = workspace) -> None:
                shutil.rmtree(workspace.nix_dir, ignore_errors=True)
                render.plan(workspace, load(workspace.inventory_file)).apply()

            yield compare(f"nix.render, {nodes} nodes", rendered, "", None, "under 1 s for 254 nodes")
            if nodes == 50 and shutil.which("nix-instantiate"):
                yield from _evaluation(workspace)


def _evaluation(workspace: Workspace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as tree:
        check.materialise(bundle.assemble(workspace, load(workspace.inventory_file)).files, Path(tree))
        for count in (10, 50):
            names = " ".join(f'"node{index}"' for index in range(1, count + 1))
            evaluate = [
                *("nix-instantiate", "--eval", "--strict", "--json", REPOSITORY / "lab/nix/evaluate.nix"),
                *("--arg", "tree", tree, "--arg", "nodes", f"[ {names} ]"),
            ]
            yield compare(f"evaluation of {count} nodes of 50", command(evaluate), "", None, "linear", runs=3)
