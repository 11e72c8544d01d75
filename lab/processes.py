"""The processes of a lab on this machine: detached from the process that starts them, found again by their mark.

The mark is in their environment, so nothing has to be written down when one is started, and a process number that was
given to another program meanwhile can't be taken for ours.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import SmallkubeError

LAB = "SMALLKUBE_LAB"
ROLE = "SMALLKUBE_LAB_ROLE"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACTIVATED_SOCKET = 3
"""The descriptor at which sd_listen_fds(3) expects the first socket."""
_first: dict[tuple[Path, str], int] = {}
"""What ``first_inside`` found last: to look at all processes of this machine takes a tenth of a second of a core."""


@dataclass(frozen=True)
class Process:
    """A running process of a lab and what it is there for."""

    pid: int
    name: str
    role: str


def spawn(
    argv: Iterable[object],
    lab: Path,
    role: str,
    log: Path,
    sock: socket.socket | None = None,
    inherited: Iterable[int] = (),
) -> None:
    """Start a program in a session of its own; it outlives this process and is marked as ``lab``'s ``role``.

    ``sock`` is passed as systemd passes a socket (sd_listen_fds(3)); the ``inherited`` descriptors stay open in it.
    """
    words = ["setsid", "--fork"]
    if sock is not None:
        words += ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh"]
    words += [str(word) for word in argv]
    read_only, append = os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, read_only, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    if sock is not None:
        actions.append((os.POSIX_SPAWN_DUP2, sock.fileno(), ACTIVATED_SOCKET))
    # Onto itself: the descriptor is no longer closed when the program starts (see posix_spawn(3)).
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited]
    environment = {"PATH": PATH, LAB: str(lab), ROLE: role}
    pid = os.posix_spawnp(words[0], words, environment, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    if status:
        raise SmallkubeError("the process can't be started", where=role)


def find(lab: Path, role: str | None = None) -> list[Process]:
    """The running processes of ``lab`` (of one role, if given)."""
    found = []
    for pid in _pids():
        own = _role(pid, lab)
        if own is not None and role in (None, own):
            status = _status(pid)
            if "Name" in status:
                found.append(Process(pid, status["Name"], own))
    return found


def first_inside(lab: Path, role: str) -> int | None:
    """The process with this role that is number 1 in a process namespace, as numbered here."""
    known = _first.get((lab, role))
    if known and _role(known, lab) == role and _is_first(known):
        return known
    for process in find(lab, role):
        if _is_first(process.pid):
            _first[lab, role] = process.pid
            return process.pid
    return None


def _is_first(pid: int) -> bool:
    inside = _status(pid).get("NSpid", "").split()
    return len(inside) > 1 and inside[-1] == "1"


def kill(lab: Path, role: str | None = None, *, seconds: float = 20) -> None:
    """End the processes of ``lab`` at once, as a power cut would, and wait until they are gone.

    Raises SmallkubeError when one is still there after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while left := find(lab, role):
        if time.monotonic() > deadline:
            raise SmallkubeError(f"process {left[0].pid} ({left[0].role}) does not end", where=lab.name)
        handles = [handle for process in left if (handle := _kill(process.pid)) is not None]
        # A process that ends loses the mark by which it is found before its sockets are closed.
        for handle in handles:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            os.close(handle)


def _kill(pid: int) -> int | None:
    """Kill a process; returns a descriptor that is readable when it has ended (see pidfd_open(2)), None if it had."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    return handle


def _pids() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdigit())


def _role(pid: int, lab: Path) -> str | None:
    """What a process of ``lab`` is there for; None for a process that is none of its."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - of each process on this machine
            raw = file.readall()
    except OSError:
        return None
    if f"{LAB}={lab}".encode() not in raw:
        return None
    pairs = (item.split("=", 1) for item in raw.decode(errors="replace").split("\0"))
    marks = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    return marks.get(ROLE, "") if marks.get(LAB) == str(lab) else None


def _status(pid: int) -> Mapping[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
