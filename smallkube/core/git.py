"""What git says of a folder: whether it has, or would take, what must stay here, and what it keeps of keys/."""

import tarfile
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import split_lines
from smallkube.core.workspace import Workspace

_SECONDS = 60


def ask(folder: Path, *words: str, good: Collection[int] = (0,)) -> str | None:
    """What git prints, None when it is not installed or does not end with one of the ``good`` exit statuses."""
    try:
        done = process.run(["git", "-C", folder, *words], timeout=_SECONDS)
    except process.NotStarted:
        return None
    return done.stdout if done.status in good else None


def exposed(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """File in the workspace → what is wrong, and the command that fixes it; nothing where no git or work tree is."""
    master, state = workspace.relative(workspace.master_key), workspace.relative(workspace.state_dir)
    fixes = {master: f"echo /{workspace.master_key.name} >> keys/.gitignore"}
    if workspace.state_dir.is_dir():
        fixes[f"{state}/kubeconfig"] = f"echo '*' > {state}/.gitignore"
    tracked = ask(workspace.root, "ls-files", "-z", "--", master, state)
    if tracked is None:
        return {}
    ignored = split_lines(ask(workspace.root, "check-ignore", "--no-index", "--", *fixes) or "")
    found = {name: ("git does not ignore it", fix) for name, fix in fixes.items() if name not in ignored}
    fault = "is tracked by git: each clone of the repository has it"
    return found | {name: (fault, f"git rm --cached {name}") for name in tracked.split("\0") if name}


def committed(folder: Path, file: str) -> dict[str, bytes] | None:
    """The files of ``folder`` (name → content) in the last commit; None where git does not take ``file`` there."""
    if ask(folder, "check-ignore", "--quiet", file, good=(1,)) is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "files.tar"
        ask(folder, "archive", f"--output={archive}", "HEAD")
        with suppress(FileNotFoundError, tarfile.TarError), tarfile.open(archive) as tar:
            found = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
            return {name: content.read() for name, content in found if content}
    return {}
