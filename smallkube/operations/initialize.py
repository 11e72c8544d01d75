"""A new workspace: the sample inventory, and all that Nix needs to evaluate its flake without the checkout."""

import json
import shutil
from pathlib import Path

from smallkube.core.errors import UsageError
from smallkube.core.files import write_file, write_files
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory import load

SCHEMA = "inventory.schema.json"
MODELINE = f"# yaml-language-server: $schema={SCHEMA}\n"
"""For editors with the YAML language server: github.com/redhat-developer/yaml-language-server, "inlined schema"."""
TASKS = """\
# Lets `inv TASK` do in this folder what `smallkube TASK` does: messages and documentation name tasks in that way.
import os
from pathlib import Path

from smallkube.cli.app import tree

os.environ.setdefault("SMALLKUBE_WORKSPACE", str(Path(__file__).resolve().parent))
namespace = tree()
"""
"""tasks.py of a workspace: Invoke takes the nearest one (docs.pyinvoke.org, concepts/loading)."""
COPIES = ("modules", "addons", "examples")
"""Folders of nix/ that a flake evaluates, and what machines start from; templates are only for rendering."""
_INSTALLER = "nix/installer/flake.nix"
_OURS = ("nix", SCHEMA, "tasks.py", ".gitignore", "README.md", "inventory.yaml")
_TEMPLATES = REPOSITORY / "nix/templates/workspace"


def create(folder: Path, name: str) -> Workspace:
    """Make ``folder`` the workspace of a cluster called ``name``.

    Raises UsageError when there is anything but a .git in the folder, or the name is none for a cluster. When it can't
    be written whole, nothing of it is left.
    """
    folder = folder.absolute()
    sample = (REPOSITORY / "inventory.yaml").read_text()
    inventory = MODELINE + sample.replace("\n  name: demo\n", f"\n  name: {json.dumps(name)}\n", 1)
    load.parse(inventory, folder / "inventory.yaml")
    try:
        if folder.exists() and any(path.name != ".git" for path in folder.iterdir()):
            hint = "name a new folder; --update renews what a workspace has of smallkube"
            raise UsageError("is not empty", where=str(folder), hint=hint)
    except OSError as error:
        raise UsageError(f"can't be a workspace: {error.strerror}", where=str(folder)) from error
    made = not folder.exists()
    try:
        _write(Workspace(folder), name, inventory)
    except BaseException:
        for path in (folder / each for each in _OURS):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if made and folder.exists():
            folder.rmdir()
        raise
    return Workspace(folder)


def _write(workspace: Workspace, name: str, inventory: str) -> None:
    update(workspace)
    write_file(workspace.root / ".gitignore", (REPOSITORY / ".gitignore").read_bytes())
    write_file(workspace.root / "README.md", (_TEMPLATES / "README.md").read_text().replace("CLUSTER", name, 1))
    write_file(workspace.root / _INSTALLER, (REPOSITORY / _INSTALLER).read_bytes())
    write_file(workspace.inventory_file, inventory)


def update(workspace: Workspace) -> None:
    """Replace what a workspace has of smallkube: COPIES, tasks.py and the schema. Raises SmallkubeError."""
    if workspace.root == REPOSITORY:
        raise UsageError("is the checkout of smallkube itself", where=str(REPOSITORY), hint="update it by git")
    for name in COPIES:
        source, target = REPOSITORY / "nix" / name, workspace.nix_dir / name
        files = {target / path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        for path in target.rglob("*"):
            if path not in files and path.is_file():
                path.unlink()
        write_files(files)
    write_file(workspace.root / "tasks.py", TASKS)
    write_file(workspace.root / SCHEMA, json.dumps(load.json_schema(), indent=2) + "\n")
