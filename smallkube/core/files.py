"""Writing files so that a crash can't leave half of one, and locks."""

import errno
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from smallkube.core.errors import UsageError, of_os
from smallkube.core.workspace import make_folder

TEMPORARY_PREFIX = ".tmp-"
_FEW = 16
"""Files that are made durable one by one, without waiting for what others write to the same disk."""


def diff(name: str, before: str, after: str) -> str:
    """How the text of the file ``name`` changes, as a unified diff; "" when it does not."""
    from difflib import unified_diff

    old, new = (text.splitlines(True) for text in (before, after))
    return "".join(unified_diff(old, new, f"a/{name}", f"b/{name}"))


def read_given(path: Path, limit: int) -> bytes:
    """What a person names, of at most ``limit`` bytes. Raises UsageError for more, or what can't be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    if len(data) > limit:
        raise UsageError(f"larger than {limit:,} bytes", where=str(path))
    return data


def write_file(path: Path, data: bytes | str, mode: int = 0o644) -> bool:
    """Write ``data`` atomically: temporary file beside it, fsync, rename, fsync of the folder.

    The file has ``mode`` from the start, whatever the umask. Returns whether anything changed: a file that already
    has this content and mode is left alone. Raises SmallkubeError when the disk is full or the folder not writable.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        if _is_current(path, content, mode):
            return False
        _replace({path: content}, mode)
    except OSError as error:
        raise of_os(error, "can't be written", path) from error
    return True


def _is_current(path: Path, content: bytes, mode: int) -> bool:
    return path.is_file() and path.stat().st_mode & 0o7777 == mode and path.read_bytes() == content


def write_files(files: Mapping[Path, bytes], mode: int = 0o644) -> None:
    """Write ``files``, each as ``write_file`` does, but all before the first is renamed, with one wait for the disk.

    All are durable before the call returns, so that a crash can't reverse the order of batches. Raises SmallkubeError
    when the disk is full or a folder not writable.
    """
    try:
        if changed := {path: data for path, data in files.items() if not _is_current(path, data, mode)}:
            _replace(changed, mode)
    except OSError as error:
        raise of_os(error, "can't be written", next(iter(files)).parent) from error


def _replace(files: Mapping[Path, bytes], mode: int) -> None:
    folders = {path.parent: None for path in files}
    for folder in folders:
        make_folder(folder)
    unique, written = os.urandom(4).hex(), dict[str, Path]()
    try:
        for path, content in files.items():
            temporary = f"{path.parent}/{TEMPORARY_PREFIX}{path.name}.{unique}"
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            written[temporary] = path
            with os.fdopen(handle, "wb") as file:
                _set_mode(handle, mode)
                file.write(content)
        _sync_contents(written)
        for temporary in [*written]:
            os.replace(temporary, written[temporary])  # noqa: PTH105 - a thousand of them
            del written[temporary]
    finally:
        for temporary in written:
            Path(temporary).unlink(missing_ok=True)
    for folder in folders:
        sync(folder)


def _sync_contents(files: Collection[str]) -> None:
    """Make these durable: many with one wait for the disk, where that can be; one without a thread."""
    if len(files) == 1:
        sync(Path(*files))
        return
    from concurrent.futures import ThreadPoolExecutor

    from smallkube.core.syncfs import sync_file_system

    if len(files) > _FEW:
        folders = {folder.stat().st_dev: folder for folder in {Path(path).parent for path in files}}
        if all(map(sync_file_system, folders.values())):
            return
    with ThreadPoolExecutor(_FEW) as pool:
        list(pool.map(sync, map(Path, files)))


def _set_mode(handle: int, mode: int) -> None:
    """On a file system that has no modes of its own (exFAT, CIFS), do without, unless others could read a secret."""
    try:
        os.fchmod(handle, mode)
    except PermissionError:
        if os.fstat(handle).st_mode & 0o066 & ~mode:
            raise


def sync(path: Path) -> None:
    """Make a file's content, or the renames and removals in a folder, durable, as far as the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what a killed ``write_file`` (of ``name``) left in ``folder``; only under the lock that guards it."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}{name}*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, purpose: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (kept by the kernel: a killed process leaves nothing behind).

    Raises UsageError that names the holder's process when another one has it, and SmallkubeError where none can be had.
    """
    with ExitStack() as held:
        try:
            make_folder(path.parent)
            file = held.enter_context(_opened(path))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.writable():
                file.truncate(0)
                file.write(f"process {os.getpid()}")
                file.flush()
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(
                f"{purpose}: already being done by {holder}", where=str(path), hint="wait until it has ended"
            ) from error
        except OSError as error:
            raise of_os(error, f"{purpose}: can't be locked", path) from error
        yield


def _opened(path: Path) -> TextIO:
    """A lock's file; one that a run with sudo has left can still be locked."""
    try:
        return path.open("a+")
    except PermissionError:
        if not path.exists():
            raise
        return path.open()
