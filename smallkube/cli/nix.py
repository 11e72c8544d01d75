"""The Nix configuration: render it from the inventory, check it."""

from invoke.context import Context

from smallkube.cli import output
from smallkube.cli.context import JSON, NODE, current, task, words
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError


@task(
    help={
        "check": "write nothing; exit status 1 when a file is stale",
        "diff": "show the changes as a unified diff",
        "update-lock": "update nix/flake.lock (needs Nix and network here)",
    }
)
def render(_: Context, check: bool = False, diff: bool = False, update_lock: bool = False) -> None:
    """Render the Nix configuration from the inventory.

    Writes nix/flake.nix and nix/rendered/.
    """
    from smallkube.core.workspace import write_file
    from smallkube.nix import bundle, lock, render

    here = current()
    plan = render.plan(here.cluster)
    changed = plan.changed
    if diff and changed:
        ui.result(plan.diff(here.workspace.root).rstrip("\n"))
    names = [here.workspace.relative(path) for path in changed]
    if check:
        if names:
            raise SmallkubeError(f"stale: {', '.join(names)}", hint="run `inv nix.render`")
        return
    plan.apply()
    for name, path in zip(names, changed, strict=True):
        ui.message(f"{'removed' if path in plan.obsolete else 'written'} {name}")
    if update_lock:
        files = bundle.assemble(here.cluster).files
        renewed = write_file(here.workspace.flake_lock, lock.here(files, update=True))
        ui.message("nix/flake.lock is renewed" if renewed else "nix/flake.lock is the newest there is")
    elif not names:
        ui.message("nothing to do: everything rendered is current")


@task(iterable=["node"], help={**NODE, **JSON})
def check(_: Context, node: list[str], json: bool = False) -> None:
    """Parse all Nix files and evaluate every node.

    Checks the result, and says what could not be checked here.
    """
    import os

    from smallkube.nix import bundle, evaluate
    from smallkube.nix.check import check as check_files

    here = current()
    nodes = [each.name for each in here.inventory.select(words(node))]
    files = bundle.assemble(here.cluster).files
    report = check_files(files, nodes, evaluate.nixpkgs_lib(os.environ))
    rows = [
        (finding.node, finding.check, finding.outcome, detail)
        for finding in report.findings
        for detail in finding.details or ("",)
    ]
    output.table(report.findings, ("NODE", "CHECK", "RESULT", "DETAIL"), rows, json=json)
    if report.failed:
        places = sorted({finding.node for finding in report.failed})
        raise SmallkubeError(f"the configuration has faults: {', '.join(places)}")
