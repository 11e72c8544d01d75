"""One wait for the disk in the place of one for each file."""

import os
import re
from functools import cache
from pathlib import Path

_OWN = ("ext4", "xfs")
"""File systems of which the kernel itself writes everything; FUSE passes a syncfs on to no server."""
_MOUNT = re.compile(r"^\S+ \S+ (\d+:\d+) .* - (\S+) ", re.MULTILINE)
"""Device and type in /proc/self/mountinfo (proc_pid_mountinfo(5))."""


def sync_file_system(folder: Path) -> bool:
    """Make durable what was written to the file system of ``folder``: contents, renames and removals.

    False, having done nothing, where that is not to be relied on: on Linux before 5.8, which does not report what could
    not be written (syncfs(2)), on other systems, and on most kinds of file systems. Raises OSError.
    """
    if not _reports():
        return False
    import ctypes

    handle = os.open(folder, os.O_RDONLY)
    try:
        device = os.fstat(handle).st_dev
        kinds = dict(_MOUNT.findall(Path("/proc/self/mountinfo").read_text(errors="replace")))
        if kinds.get(f"{os.major(device)}:{os.minor(device)}") not in _OWN:
            return False
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)
    return True


@cache
def _reports() -> bool:
    name, _, release, *_ = os.uname()
    return name == "Linux" and [*map(int, re.findall(r"\d+", release)[:2])] >= [5, 8]
