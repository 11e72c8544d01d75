"""Making a workspace."""

from typing import Annotated

from smallkube.cli.context import Current, task
from smallkube.core import ui
from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace, expanded


@task("yes")
def init(
    here: Current,
    folder: Annotated[str, "the folder: a new one, or an empty one"],
    name: Annotated[str | None, "name of the cluster (default: that of the folder)"] = None,
    update: Annotated[bool, "renew nix/modules, addons, examples, tasks.py and the schema of a workspace"] = False,
) -> None:
    """Make a workspace: inventory, modules, README.

    Its flake evaluates without this checkout, once it is rendered and in git.
    With --update, what git tracks shows what changed.
    """
    from smallkube.operations import initialize

    root = expanded(folder).resolve()
    if not update:
        initialize.create(root, root.name if name is None else name)
        ui.message(f"next: cd {folder}, git init, and edit inventory.yaml; README.md there has the commands")
        return
    if name is not None:
        raise UsageError("--name is for a new workspace")
    workspace = Workspace(root)
    if not workspace.inventory_file.is_file():
        raise UsageError("no workspace: it has no inventory.yaml", where=str(root), hint="make one without --update")
    ui.confirm(f"replace nix/modules, nix/addons, nix/examples and tasks.py in {root}?", yes=here.yes)
    initialize.update(workspace)
    ui.message("renewed the schema and these folders; next: smallkube nix.render, then git diff")
