"""etcd's own programs on this machine, for a rehearsal."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import UsageError

NAMES = ("etcd", "etcdctl", "etcdutl")
OLDEST = (3, 5)
"""The first with etcdutl, and with flags that nix/modules/etcd.nix uses."""


@dataclass(frozen=True)
class Programs:
    """Paths of the three."""

    etcd: str
    etcdctl: str
    etcdutl: str


def find(folder: Path | None, written_by: str) -> Programs:
    """Those in ``folder``, else on PATH, that can read what etcd ``written_by`` (a version) wrote: its minor or newer.

    Raises UsageError.
    """
    found = {
        name: str(Path(path).absolute())
        for name in NAMES
        if (path := shutil.which(name, path=str(folder) if folder else None))
    }
    where, needed = str(folder) if folder else "PATH", max(OLDEST, minor(written_by))
    hint = (
        f"install etcd {_text(needed)} or newer (NixOS: nix-shell -p etcd; Debian 13 has 3.5: etcd-server and "
        "etcd-client), or name its folder with --etcd-dir"
    )
    for name, path in found.items():
        if (version := _version(path)) < needed:
            raise UsageError(f"{name} is {_text(version)}; {_text(needed)} or newer is needed", where=where, hint=hint)
    if missing := [name for name in NAMES if name not in found]:
        raise UsageError(f"the rehearsal needs {', '.join(missing)}, not found", where=where, hint=hint)
    return Programs(**found)


def minor(version: str) -> tuple[int, int]:
    """``3.6.6`` → (3, 6); raises UsageError."""
    match = re.search(r"(\d+)\.(\d+)\.\d+", version)
    if not match:
        raise UsageError(f"{version!r} is no version of etcd")
    return int(match[1]), int(match[2])


def _version(path: str) -> tuple[int, int]:
    word = "--version" if path.endswith("etcd") else "version"
    try:
        reply = process.run([path, word], timeout=20)
    except process.NotStarted as error:
        raise UsageError(error.message, where=path) from error
    try:
        return minor(reply.stdout)
    except UsageError as error:
        raise UsageError("does not tell its version: is it etcd's?", where=path) from error


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
