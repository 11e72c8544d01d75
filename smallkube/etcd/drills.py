"""The results of drills, kept in this machine's folder of the workspace: a record is signed and never changes."""

import json
from dataclasses import asdict, dataclass

from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.stream import FILE_MODE

_FILE = "drills.json"


@dataclass(frozen=True)
class Drill:
    """``time`` is UTC, RFC 3339; ``fault`` is "" when the backup was restored with all that was recorded."""

    time: str
    seconds: float
    fault: str = ""


def read(workspace: Workspace) -> dict[str, Drill]:
    """Backup → its last drill on this machine. Raises UsageError when the file is damaged."""
    file = workspace.state_dir / _FILE
    return workspace.read_json(file, dict[str, Drill], "remove it: it has no more than results of drills") or {}


def note(workspace: Workspace, existing: Catalog, name: str, drill: Drill) -> None:
    """Keep the result of the backup ``name``; those of backups that are gone are dropped. Raises SmallkubeError."""
    there = {record.name for record in existing.records}
    kept = {each: found for each, found in read(workspace).items() if each in there} | {name: drill}
    text = json.dumps({each: asdict(found) for each, found in kept.items()}, indent=2)
    write_file(workspace.state_dir / _FILE, text + "\n", FILE_MODE)
