"""How long rendering takes, nix.check, and evaluation of every node by the lab's evaluator."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.harness import INV, QUICK, Plan, Row, Work, absent, command, compare, prepared
from bench.secrets import generate, make_workspace
from lab.checks import evaluate
from smallkube.core import process
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix import bundle, render

CHECK = """
import re, resource, sys
from pathlib import Path
from smallkube.cli.program import main
file, *words = sys.argv[1:]
main(["smallkube", "nix.check", *words])
# That of getrusage(2) begins with the memory of the process that this one is from.
own = re.search("VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1]
largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
Path(file).write_text(" and ".join(f"{int(kib) // 1024} MiB" for kib in (own, largest)))
"""


def rows(plan: Plan) -> Iterator[Row]:
    if absent("nix.render", INV, "ssh-keygen"):
        return
    for nodes in plan.nodes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            make_workspace(root / "template", nodes)
            generate(root / "generated", root / "template")()
            works = prepared(plan, partial(_render, root))
            yield compare(plan, f"nix.render, {nodes} nodes", works, goal="at most 0.8 s for 254 nodes")
            workspace = Workspace(root / "render0")
            _plan(workspace).apply()
            if absent("nix.check", "nix", "nix-instantiate"):
                continue
            if nodes == min(plan.nodes):
                yield from _evaluation(plan, workspace, nodes)
            yield from _checks(plan, root, workspace, nodes)


def _render(root: Path, run: int) -> Work:
    workspace = Workspace(shutil.copytree(root / "generated", root / f"render{run}"))
    return lambda: _plan(workspace).apply()


def _plan(workspace: Workspace) -> render.Plan:
    return render.plan(Cluster(workspace, load(workspace.inventory_file)))


def _evaluation(plan: Plan, workspace: Workspace, nodes: int) -> Iterator[Row]:
    program = process.find("nix-instantiate")
    assert program
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        bundle.write_tree(bundle.assemble(Cluster(workspace, load(workspace.inventory_file))).files, tree)
        for count in plan.evaluated:
            names = [f"node{index}" for index in range(1, count + 1)]
            work = partial(_evaluate, program, tree, names)
            yield compare(plan, f"evaluation of {count} nodes of {nodes}", work, goal="linear")


def _evaluate(program: str, tree: Path, names: list[str]) -> None:
    evaluate.evaluate(program, tree, names)


def _checks(plan: Plan, root: Path, workspace: Workspace, nodes: int) -> Iterator[Row]:
    """nix.check with the stand-ins of the lab; a store of its own."""
    store = {"NIX_REMOTE": str(root / "store"), "XDG_CACHE_HOME": str(root / "cache")}
    environment = {**os.environ, **store, "SMALLKUBE_WORKSPACE": str(workspace.root)}
    memory = root / "memory"
    inputs = [word for name, url in evaluate.INPUTS.items() for word in ("--override-input", f"{name}={url}")]
    check = command([sys.executable, "-c", CHECK, memory, *inputs], cwd=REPOSITORY, env=environment)
    single = plan if nodes == min(plan.nodes) else QUICK  # of the largest one run is minutes
    row = compare(single, f"nix.check, {nodes} nodes", check)
    yield replace(row, goal=f"at most 5 s for 50 nodes; memory of its process and of the largest: {memory.read_text()}")
    for path in (root / "store").rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
