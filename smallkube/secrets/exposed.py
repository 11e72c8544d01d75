"""keys/exposed.json: the secrets that an administrator who is being removed could read, until each is replaced.

It is there from the beginning of a removal to its end, so that the same command resumes it. It is not secret.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from smallkube.core.workspace import Workspace
from smallkube.secrets.policy import Secret


@dataclass(frozen=True)
class Exposed:
    """``name`` and ``recipient`` of the administrator; ``secrets`` by their names in the policy."""

    name: str
    recipient: str
    secrets: tuple[str, ...]

    def without(self, rows: Iterable[Secret]) -> "Exposed":
        """When these are replaced."""
        replaced = {row.name for row in rows}
        return Exposed(self.name, self.recipient, tuple(name for name in self.secrets if name not in replaced))


def read(workspace: Workspace) -> Exposed | None:
    """None where no removal is under way. Raises UsageError when the file is damaged."""
    return workspace.read_json(workspace.exposed_file, Exposed, "restore it from git")


def file(workspace: Workspace, found: Exposed | None) -> dict[str, bytes | None]:
    """The file in keys/ that says so, for a change of keys/."""
    text = json.dumps(asdict(found), indent=1) + "\n" if found else None
    return {workspace.exposed_file.name: text.encode() if text else None}
