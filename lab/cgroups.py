"""A control group of its own for each machine, where no systemd of this machine gives it one.

With systemd here, systemd-nspawn asks it for a scope. Elsewhere the machine would share the caller's group, and two
kubelets would meet in it.
"""

import os
from contextlib import suppress
from pathlib import Path

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


def remove(name: str) -> None:
    """Remove the group ``name`` with all below it; a group that still has processes stays."""
    for hierarchy in hierarchies(Path("/proc/self/mountinfo").read_text()):
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
