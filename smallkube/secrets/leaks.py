"""Could a secret leak from keys/ as it lies there: modes, git, private keys in clear?"""

import stat
from collections.abc import Iterator
from pathlib import Path

from smallkube.core import process
from smallkube.core.workspace import Workspace

_CLEAR = (b"AGE-SECRET-KEY-1", b"PRIVATE KEY-----")
_LARGEST = 64 * 1024


def exposures(workspace: Workspace) -> Iterator[tuple[str, str, str]]:
    """Each as (file, fault, command that mends it)."""
    master = workspace.master_key
    if master.exists() and (mode := stat.S_IMODE(master.stat().st_mode)) != 0o600:
        yield master.name, f"mode {mode:04o} instead of 0600", f"chmod 600 {workspace.relative(master)}"
    yield from _git(workspace)
    for path in sorted(workspace.keys_dir.rglob("*")):
        name = str(path.relative_to(workspace.keys_dir))
        if path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_mode & stat.S_IWOTH:
            yield name, "anyone on this machine may change it", f"chmod o-w keys/{name}"
        if path != master and _holds_private_key(path):
            yield name, "holds a private key in clear", f"rm keys/{name}, and replace what it opens"


def _holds_private_key(path: Path) -> bool:
    if path.stat().st_size > _LARGEST:
        return False
    data = path.read_bytes()
    return any(mark in data for mark in _CLEAR)


def _git(workspace: Workspace) -> Iterator[tuple[str, str, str]]:
    """git's own word on whether the identity can be committed; nothing where there is no git or no work tree."""
    name = workspace.master_key.name
    tracked = _git_status(workspace, "ls-files", "--error-unmatch", "--", f"keys/{name}")
    if tracked == 0:
        yield name, "is tracked by git: whoever has the repository has every secret", f"git rm --cached keys/{name}"
    elif _git_status(workspace, "check-ignore", "-q", "--", f"keys/{name}") == 1:
        yield name, "git does not ignore it", f"echo /{name} >> keys/.gitignore"


def _git_status(workspace: Workspace, *arguments: str) -> int | None:
    try:
        done = process.run(["git", "-C", workspace.root, *arguments], timeout=20)
    except process.NotStarted:
        return None
    return None if done.stopped else done.status
