"""Removing what the lab made: never across a mount, because what is mounted there is not the lab's to delete.

Folders of the cache are shared by labs: each holds those it uses with a shared lock on the folder (flock(2)), and only
who has the exclusive lock removes one.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from smallkube.core.errors import SmallkubeError


def mounted_below(folder: Path, mountinfo: str) -> list[str]:
    """The mount points at or below ``folder`` in the text of ``/proc/self/mountinfo`` (see proc(5))."""
    points = [line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines() if line.strip()]
    return [point for point in points if Path(point).is_relative_to(folder)]


def remove_tree(folder: Path) -> None:
    """Delete ``folder`` and all below it, if it is there.

    Raises SmallkubeError, having deleted nothing, when something is mounted there.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    _refuse_mounts(folder)
    shutil.rmtree(folder)


def _refuse_mounts(folder: Path) -> None:
    mounted = mounted_below(folder.resolve(), Path("/proc/self/mountinfo").read_text())
    if mounted:
        raise SmallkubeError(f"{mounted[0]} is mounted, so {folder} was left alone", hint=f"umount {mounted[0]}")


@contextmanager
def hold(folders: Iterable[Path]) -> Iterator[list[int]]:
    """Keep folders of the cache from being removed; a process that inherits the descriptors does so after the block.

    Raises SmallkubeError when one is not there any more.
    """
    with ExitStack() as stack:
        held = []
        for folder in folders:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                there = os.path.samestat(os.fstat(descriptor), folder.stat())
            except FileNotFoundError:
                there = False
            if not there:
                raise SmallkubeError("was removed a moment ago", where=str(folder), hint="run the same command again")
            held.append(descriptor)
        yield held


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the exclusive lock on a file or folder unless another process has one; yields whether it is held."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def remove_if_free(folder: Path) -> bool:
    """Delete a folder of the cache unless another process holds it; returns whether it was deleted.

    It is renamed first, so that an interrupted removal leaves nothing that could be taken for a complete folder.
    Raises SmallkubeError, having deleted nothing, when something is mounted there.
    """
    removed = folder.with_name(f"{folder.name}.removed")
    with locked_if_free(folder) as free:
        if not free:
            return False
        _refuse_mounts(folder)
        remove_tree(removed)
        folder.rename(removed)
    remove_tree(removed)
    return True


def disk_usage(folder: Path) -> int:
    """Bytes that ``folder`` takes on its disk: a file with several names counts once, what is mounted there doesn't."""
    device = folder.stat().st_dev
    blocks: dict[int, int] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            # Machines that run remove files meanwhile.
            with suppress(FileNotFoundError):
                found = Path(parent, name).lstat()
                if found.st_dev == device:
                    blocks[found.st_ino] = found.st_blocks
                elif name in folders:
                    folders.remove(name)
    return sum(blocks.values()) * 512
