"""A control group of its own for each machine, where no systemd of this machine gives it one.

With systemd here, systemd-nspawn asks it for a scope. Elsewhere the machine would share the caller's group, and two
kubelets would meet in it.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from smallkube.core.errors import SmallkubeError

CPUSET = ("cpuset.cpus", "cpuset.mems")


def systemd_is_here() -> bool:
    """Whether this machine's service manager is systemd (see sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def hierarchies(mountinfo: str) -> list[Path]:
    """Where control group hierarchies are mounted, by the text of ``/proc/self/mountinfo``."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return found


def create(name: str) -> list[Path]:
    """Make the group ``name`` in every hierarchy; returns the files to which a process is written to enter it."""
    entries = []
    for hierarchy in hierarchies(Path("/proc/self/mountinfo").read_text()):
        group = hierarchy / name
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            for setting in CPUSET:
                if (group / setting).exists():
                    (group / setting).write_text((hierarchy / setting).read_text())
            entries.append(group / "cgroup.procs")
    return entries


def remove(name: str, seconds: float = 10) -> None:
    """Remove the group ``name`` with all below it, waiting until the processes in it have ended.

    Raises SmallkubeError when one is still there after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    for hierarchy in hierarchies(Path("/proc/self/mountinfo").read_text()):
        group = hierarchy / name
        while group.is_dir():
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
            if group.is_dir() and time.monotonic() > deadline:
                raise SmallkubeError(f"processes are left in the control group {group}")
            time.sleep(0.01)
