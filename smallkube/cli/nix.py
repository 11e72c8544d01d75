"""The Nix configuration: render it from the inventory, check it."""

from dataclasses import asdict

from invoke.context import Context

from smallkube.cli import current, task, words

__all__ = ["check", "render"]


@task(
    help={
        "check": "write nothing; exit 1 when something is stale",
        "diff": "show the change as a unified diff",
        "update-lock": "renew nix/flake.lock (needs Nix and network here)",
    }
)
def render(_: Context, check: bool = False, diff: bool = False, update_lock: bool = False) -> None:
    """Render nix/flake.nix and nix/rendered/ from the inventory."""
    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError
    from smallkube.core.workspace import write_file
    from smallkube.nix import bundle, lock, render

    here = current()
    plan = render.plan(here.workspace, here.inventory)
    changed = plan.changed
    if diff:
        ui.result(plan.diff(here.workspace.root).rstrip("\n")) if changed else None
    names = [here.workspace.relative(path) for path in changed]
    if check:
        if names:
            raise SmallkubeError(f"stale: {', '.join(names)}", hint="run `inv nix.render`")
        return
    plan.apply()
    for name, path in zip(names, changed, strict=True):
        ui.message(f"{'removed' if path in plan.obsolete else 'written'} {name}")
    if update_lock:
        files = bundle.assemble(here.workspace, here.inventory).files
        renewed = write_file(here.workspace.flake_lock, lock.here(files, update=True))
        ui.message("nix/flake.lock is renewed" if renewed else "nix/flake.lock is the newest there is")
    elif not names:
        ui.message("nothing to do: everything rendered is current")


@task(iterable=["node"], help={"node": "only these nodes (repeatable, or separated by commas)", "json": "print JSON"})
def check(_: Context, node: list[str], json: bool = False) -> None:
    """Parse every Nix file, evaluate every node, check the result."""
    import os

    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError
    from smallkube.nix import bundle, evaluate
    from smallkube.nix.check import check as check_files

    here = current()
    nodes = [each.name for each in here.inventory.select(words(node))]
    files = bundle.assemble(here.workspace, here.inventory).files
    report = check_files(files, nodes, evaluate.nixpkgs_lib(os.environ))
    if json:
        ui.json_result([asdict(finding) for finding in report.findings])
    else:
        rows = [
            (finding.node, finding.check, finding.outcome, detail)
            for finding in report.findings
            for detail in finding.details or ("",)
        ]
        ui.table(("NODE", "CHECK", "RESULT", "DETAIL"), rows)
    if report.failed:
        places = sorted({finding.node for finding in report.failed})
        raise SmallkubeError(f"the configuration has faults: {', '.join(places)}")
