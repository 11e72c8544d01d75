"""keys/recipients.json: for each encrypted file its SHA-256 and the recipients it was encrypted to.

Not secret. It is the only way to tell, without a key, *which* X25519 recipient a file has: the header doesn't say.
A record counts only for the very bytes it names.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace


@dataclass(frozen=True)
class Record:
    """One file: SHA-256 of its bytes (hex), and its recipients in the order of the policy."""

    sha256: str
    recipients: tuple[str, ...]


def record(data: bytes, recipients: Iterable[str]) -> Record:
    """The record of ``data``, just encrypted to ``recipients``."""
    return Record(digest(data), tuple(recipients))


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def read(workspace: Workspace) -> dict[str, Record]:
    """The records by file name; empty when there is no such file. Raises UsageError when it is damaged."""
    path = workspace.recipients_file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(workspace) from error
    try:
        files = json.loads(text)["files"]
        rows = {name: Record(row["sha256"], tuple(row["recipients"])) for name, row in files.items()}
        if all(isinstance(part, str) for row in rows.values() for part in (row.sha256, *row.recipients)):
            return rows
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(workspace) from error
    raise _damaged(workspace)


def _damaged(workspace: Workspace) -> UsageError:
    return UsageError(
        "damaged",
        where=workspace.relative(workspace.recipients_file),
        hint="restore it from git, or remove it (proofs then fall back to the files' headers)",
    )


def render(records: Mapping[str, Record]) -> str:
    """The file's text: sorted, one record a line, so that merges in git stay readable."""
    rows = [
        f"    {json.dumps(name)}: {json.dumps({'sha256': row.sha256, 'recipients': list(row.recipients)})}"
        for name, row in sorted(records.items())
    ]
    return '{\n  "version": 1,\n  "files": {\n' + ",\n".join(rows) + "\n  }\n}\n"
