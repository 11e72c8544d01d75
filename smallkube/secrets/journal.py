"""Several files of keys/ that only make sense together, changed as one: a redo journal.

The journal, one file written atomically, holds the new content of them all (ciphertext and public text only). Once it
is there the change has happened: whoever next takes the lock on keys/ carries it out to the end, however often it was
killed on the way. Until then none of it has.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import write_files
from smallkube.core.workspace import TEMPORARY_PREFIX, Workspace, sync_folder, write_file


@dataclass(frozen=True)
class Change:
    """Whose keys change (nodes, or names of secrets), the new content of files in keys/, and which files go."""

    nodes: tuple[str, ...]
    files: Mapping[str, bytes]
    gone: tuple[str, ...] = ()


def _path(workspace: Workspace) -> Path:
    return workspace.state_dir / "keys-change.json"


def unfinished(workspace: Workspace) -> tuple[str, ...]:
    """Whose keys a change concerns that was begun and has not been carried out to the end; none, when there is none.

    Raises UsageError when the journal is damaged.
    """
    change = _read(workspace)
    return change.nodes if change else ()


def refuse_unfinished(workspace: Workspace) -> None:
    """Raise UsageError when keys/ is between two states, in which no machine must get it."""
    if unfinished(workspace):
        raise UsageError(
            "a change of keys was interrupted",
            where=workspace.relative(workspace.keys_dir),
            hint="run `inv keys.generate`, which completes it",
        )


def commit(workspace: Workspace, change: Change) -> None:
    """Make ``change`` happen, whatever comes; call it under the lock on keys/.

    Raises SmallkubeError when a file can't be written: before the journal is there nothing has changed.
    """
    files = {name: base64.b64encode(data).decode() for name, data in change.files.items()}
    document = {"version": 1, "nodes": list(change.nodes), "files": files, "gone": list(change.gone)}
    text = json.dumps(document, indent=1)
    write_file(_path(workspace), text + "\n", 0o600)
    complete(workspace)


def complete(workspace: Workspace) -> tuple[str, ...]:
    """Carry out a change that was interrupted, and return whose keys it concerns; call it under the lock on keys/.

    Raises UsageError when the journal is damaged and SmallkubeError when a file can't be written.
    """
    path = _path(workspace)
    for leftover in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}.*"):
        leftover.unlink(missing_ok=True)
    change = _read(workspace)
    if change is None:
        return ()
    write_files(workspace.keys_dir, change.files)
    try:
        for name in change.gone:
            (workspace.keys_dir / name).unlink(missing_ok=True)
        sync_folder(workspace.keys_dir)
        path.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise SmallkubeError(f"can't be removed: {error.strerror}", where=workspace.relative(path)) from error
    return change.nodes


def _read(workspace: Workspace) -> Change | None:
    path = _path(workspace)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): base64.b64decode(text, validate=True) for name, text in document["files"].items()}
        change = Change(tuple(map(str, document["nodes"])), files, tuple(map(str, document.get("gone", ()))))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(workspace) from error
    if not change.nodes or any(Path(name).name != name for name in (*files, *change.gone)):
        raise _damaged(workspace)
    return change


def _damaged(workspace: Workspace) -> UsageError:
    hint = "restore keys/ from git, then remove this file"
    return UsageError("damaged", where=workspace.relative(_path(workspace)), hint=hint)
