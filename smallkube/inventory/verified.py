"""What inventory.check found valid last; the same is not validated again, so that pydantic need not be imported."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace


@dataclass(frozen=True)
class Verified:
    """A valid inventory, as far as inventory.check has to know it."""

    nodes: int
    external_host: str
    port: int


def digest(workspace: Workspace) -> str:
    """Of inventory.yaml (hexadecimal), and of when the code that validates it was written; "" if there is no file."""
    code = sorted((path.name, path.stat().st_mtime_ns) for path in Path(__file__).parent.glob("*.py"))
    try:
        return hashlib.sha256(workspace.inventory_file.read_bytes() + repr(code).encode()).hexdigest()
    except OSError:
        return ""


def recall(workspace: Workspace, digest: str) -> Verified | None:
    """What was kept of the inventory with this digest, None if nothing was."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(workspace.verified_file.read_bytes())
        return Verified(**found["verified"]) if digest and found["digest"] == digest else None
    return None


def keep(workspace: Workspace, digest: str, verified: Verified) -> None:
    """Keep it for the next time, where a file can be written."""
    with suppress(SmallkubeError, OSError):
        write_file(workspace.verified_file, json.dumps({"digest": digest, "verified": asdict(verified)}), 0o600)
