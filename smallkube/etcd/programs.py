"""etcd's own programs on this machine, for a rehearsal."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from smallkube.errors import UsageError

NAMES = ("etcd", "etcdctl", "etcdutl")
OLDEST = (3, 5)
"""The first with etcdutl, and with flags that nix/modules/etcd.nix uses."""


@dataclass(frozen=True)
class Programs:
    """Paths of the three, and their version up to the minor."""

    etcd: str
    etcdctl: str
    etcdutl: str
    minor: tuple[int, int]


def find(folder: Path | None, written_by: str) -> Programs:
    """Those in ``folder``, else on PATH, that can read what etcd ``written_by`` (a version) wrote: its minor or newer.

    Raises UsageError.
    """
    paths = {name: shutil.which(name, path=str(folder) if folder else None) for name in NAMES}
    where = str(folder) if folder else "PATH"
    if missing := [name for name, path in paths.items() if path is None]:
        raise UsageError(
            f"{', '.join(missing)}: not here, and the rehearsal needs etcd's own programs",
            where=where,
            hint=f"install etcd {_text(minor(written_by))} or newer (NixOS: nix-shell -p etcd; Debian 13: etcd-server "
            "etcd-client), or name its folder with --etcd-dir",
        )
    found = {name: str(path) for name, path in paths.items()}
    version = min(_version(path) for path in found.values())
    if version < (needed := max(OLDEST, minor(written_by))):
        raise UsageError(f"etcd {_text(version)} is here, and {_text(needed)} or newer is needed", where=where)
    return Programs(**found, minor=version)


def minor(version: str) -> tuple[int, int]:
    """``3.6.6`` → (3, 6); raises UsageError."""
    match = re.search(r"(\d+)\.(\d+)\.\d+", version)
    if not match:
        raise UsageError(f"{version!r} is no version of etcd")
    return int(match[1]), int(match[2])


def _version(path: str) -> tuple[int, int]:
    word = "--version" if path.endswith("etcd") else "version"
    try:
        said = subprocess.run([path, word], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"can't be run: {error}", where=path) from error
    return minor(said.stdout)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
