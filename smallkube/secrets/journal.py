"""Several files of keys/ that only make sense together, changed as one: a redo journal.

The journal, one file written atomically, holds the new content of them all (ciphertext and public text only). Once it
is there the change has happened: whoever next takes the lock on keys/ carries it out to the end, however often it was
killed on the way. Until then none of it has. It also has the hashes of what it replaces: a journal left over while
keys/ went on (restored from git, say, or copied with the rest of the folder) is refused instead of undoing newer work.
"""

import base64
import hashlib
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

    @property
    def names(self) -> tuple[str, ...]:
        """The files in keys/ that it writes or removes."""
        return (*self.files, *self.gone)


def _path(workspace: Workspace) -> Path:
    return workspace.state_dir / "keys-change.json"


def unfinished(workspace: Workspace) -> tuple[str, ...]:
    """Whose keys a change concerns that was begun and has not been carried out to the end; none, when there is none.

    Raises UsageError when the journal is damaged.
    """
    found = _read(workspace)
    return found[0].nodes if found else ()


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
    document = {
        "version": 2,
        "nodes": list(change.nodes),
        "files": files,
        "gone": list(change.gone),
        "replaces": {name: _hash_of(workspace, name) for name in change.names},
    }
    text = json.dumps(document, indent=1)
    write_file(_path(workspace), text + "\n", 0o600)
    complete(workspace)


def complete(workspace: Workspace) -> tuple[str, ...]:
    """Carry out a change that was interrupted, and return whose keys it concerns; call it under the lock on keys/.

    Raises UsageError when the journal is damaged or keys/ has changed since, and SmallkubeError when a file can't be
    written.
    """
    path = _path(workspace)
    for leftover in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}.*"):
        leftover.unlink(missing_ok=True)
    found = _read(workspace)
    if found is None:
        return ()
    change, replaces = found
    _refuse_newer(workspace, change, replaces)
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


def _refuse_newer(workspace: Workspace, change: Change, replaces: Mapping[str, str | None]) -> None:
    after = {name: _hash(data) for name, data in change.files.items()} | dict.fromkeys(change.gone)
    newer = [
        name for name in replaces if name in after and _hash_of(workspace, name) not in (replaces[name], after[name])
    ]
    if newer:
        raise UsageError(
            f"an interrupted change of keys would undo what was changed since: {', '.join(newer)}",
            where=workspace.relative(_path(workspace)),
            hint="remove this file if keys/ is as it should be (inv keys.check)",
        )


def _hash_of(workspace: Workspace, name: str) -> str | None:
    """Of a file in keys/, None where it is absent."""
    try:
        return _hash((workspace.keys_dir / name).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        where = workspace.relative(workspace.keys_dir / name)
        raise SmallkubeError(f"can't be read: {error.strerror}", where=where) from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(workspace: Workspace) -> tuple[Change, Mapping[str, str | None]] | None:
    """The change and the hashes of what it replaces (none in journals of version 1)."""
    path = _path(workspace)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): base64.b64decode(text, validate=True) for name, text in document["files"].items()}
        change = Change(tuple(map(str, document["nodes"])), files, tuple(map(str, document.get("gone", ()))))
        replaces = {str(name): known for name, known in document.get("replaces", {}).items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(workspace) from error
    if not change.nodes or any(Path(name).name != name for name in (*files, *change.gone)):
        raise _damaged(workspace)
    return change, replaces


def _damaged(workspace: Workspace) -> UsageError:
    hint = "restore keys/ from git, then remove this file"
    return UsageError("damaged", where=workspace.relative(_path(workspace)), hint=hint)
