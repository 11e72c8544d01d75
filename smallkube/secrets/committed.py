"""What git has of keys/: the only copy of a secret that is deleted from there."""

import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from smallkube.core import process
from smallkube.core.workspace import Workspace

_SECONDS = 60


def read(workspace: Workspace, file: str) -> dict[str, bytes] | None:
    """The files of keys/ (name → content) in the last commit; None where git does not take ``file`` there."""
    git = ("git", "-C", workspace.keys_dir)
    try:
        if process.run([*git, "check-ignore", "--quiet", file], timeout=_SECONDS).status != 1:
            return None
    except process.NotStarted:
        return None
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "keys.tar"
        process.run([*git, "archive", f"--output={archive}", "HEAD"], timeout=_SECONDS)
        with suppress(FileNotFoundError, tarfile.TarError), tarfile.open(archive) as tar:
            found = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
            return {name: content.read() for name, content in found if content}
    return {}
