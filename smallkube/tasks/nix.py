"""The Nix configuration: render it from the inventory, check it."""

from invoke.context import Context

from smallkube.tasks import current, task

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
    from smallkube import ui
    from smallkube.errors import SmallkubeError
    from smallkube.nix import render

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
    if not names:
        ui.message("nothing to do: everything rendered is current")
