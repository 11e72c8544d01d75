"""Removing what the lab made: never across a mount, because what is mounted there is not the lab's to delete."""

import shutil
from pathlib import Path

from smallkube.errors import SmallkubeError


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
    mounted = mounted_below(folder.resolve(), Path("/proc/self/mountinfo").read_text())
    if mounted:
        raise SmallkubeError(f"{mounted[0]} is mounted, so {folder} was left alone", hint=f"umount {mounted[0]}")
    shutil.rmtree(folder)
