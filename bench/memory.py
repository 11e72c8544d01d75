"""How much memory a process takes, and the largest of those that it starts, here and over SSH."""

import re
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from smallkube.core.errors import SmallkubeError

_FIELDS = re.compile(r"^(Name|PPid|VmHWM):\s+(\S+)", re.MULTILINE)
_SECONDS = 0.01


def peaks(argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], server: int) -> tuple[int, str, int]:
    """Run ``argv``: the peak of its process, the name of the largest of its tree and of ``server``'s, and its peak.

    Peaks in MiB, pages of files that are mapped included (VmHWM, proc_pid_status(5)): not those of getrusage(2), which
    begin with the memory of the process that forked. ``server``: the process of sshd, whose children are counted alone.
    """
    found: dict[int, tuple[str, int]] = {}
    words = [str(word) for word in argv]
    with subprocess.Popen(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            seen = _processes()
            for pid, (name, parent, peak) in seen.items():
                if pid == process.pid or _descends(parent, {process.pid, server}, seen):
                    found[pid] = name, peak
            time.sleep(_SECONDS)
    if process.returncode:
        raise SmallkubeError(f"exit status {process.returncode}", where=str(argv[0]))
    name, largest = max(found.values(), key=lambda each: each[1])
    return found[process.pid][1] >> 10, name, largest >> 10


def _processes() -> dict[int, tuple[str, int, int]]:
    """Process → its name, its parent and its peak in KiB."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(_FIELDS.findall(path.read_text()))
        except OSError:  # it has ended
            continue
        if "VmHWM" in fields:
            found[int(path.parent.name)] = (fields["Name"], int(fields["PPid"]), int(fields["VmHWM"]))
    return found


def _descends(pid: int, ancestors: Collection[int], seen: Mapping[int, tuple[str, int, int]]) -> bool:
    while pid in seen and pid not in ancestors:
        pid = seen[pid][1]
    return pid in ancestors
