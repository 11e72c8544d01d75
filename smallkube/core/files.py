"""Writing files so that a crash can't leave half of one, and locks."""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError

TEMPORARY_PREFIX = ".tmp-"
_AT_ONCE = 16


def write_file(path: Path, data: bytes | str, mode: int = 0o644) -> bool:
    """Write ``data`` atomically: temporary file beside it, fsync, rename, fsync of the folder.

    The file has ``mode`` from the start, whatever the umask. Returns whether anything changed: a file that already
    has this content and mode is left alone. Raises SmallkubeError when the disk is full or the folder not writable.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        if path.is_file() and path.stat().st_mode & 0o7777 == mode and path.read_bytes() == content:
            return False
        _replace(path.parent, {path.name: content}, mode)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(path)) from error
    return True


def write_files(folder: Path, files: Mapping[str, bytes], mode: int = 0o644) -> None:
    """Write ``files`` (name → content) into ``folder``, each as ``write_file`` does, without waiting for the disk once
    for each; all are durable before the call returns, so that a crash can't reverse the order of batches.

    Raises SmallkubeError when the disk is full or the folder not writable.
    """
    if not files:
        return
    try:
        _replace(folder, files, mode)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(folder)) from error


def _replace(folder: Path, files: Mapping[str, bytes], mode: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporaries: dict[str, Path] = {}
    try:
        for name, content in files.items():
            handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{name}.", dir=folder)
            temporaries[name] = Path(temporary)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, mode)
                file.write(content)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(sync, temporaries.values()))
        for name, written in temporaries.items():
            written.replace(folder / name)
    finally:
        for written in temporaries.values():
            written.unlink(missing_ok=True)
    sync(folder)


def sync(path: Path) -> None:
    """Make a file's content, or the renames and removals in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what a killed ``write_file`` (of ``name``) left in ``folder``; only under the lock that guards it."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}{name}*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, purpose: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (kept by the kernel: a killed process leaves nothing behind).

    Raises UsageError that names the holder's process when another one has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(
                f"{purpose}: already being done by {holder}", where=str(path), hint="wait until it has ended"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
