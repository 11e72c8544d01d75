"""The journal of a unit on many machines, in the order of time, or as it grows."""

import heapq
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from smallkube.core.errors import SmallkubeError, UsageError, split_lines
from smallkube.etcd.status import SCRIPTS
from smallkube.inventory.models import Node
from smallkube.remote import fleet, journal
from smallkube.remote.fleet import Outcome
from smallkube.remote.host import Connect, Host

FOLLOW_SECONDS = 86_400
"""Without a line for so long, a journal is followed no longer."""
_UNIT = re.compile(r"(?!--)[\w:@.\\-]{1,255}", re.ASCII)
_MAX_PART = 1 << 16

Show = Callable[[str, str], object]


@dataclass(frozen=True)
class Wanted:
    """``lines``: the last ones of each machine, 0 for all; of the last ``since`` seconds, 0 for since it started."""

    unit: str
    lines: int
    since: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for what can't be the name of a unit (systemd.unit(5))."""
        if not _UNIT.fullmatch(self.unit):
            raise UsageError(f"{self.unit!r} is no unit", hint="expected a name, such as kubelet or etcd.service")


def read(nodes: Sequence[Node], connect: Connect, wanted: Wanted, show: Show) -> tuple[Outcome[int], ...]:
    """Give ``show`` node and line of each, oldest first; the value of an outcome is how many lines there were."""
    command = journal.command(wanted.unit, lines=wanted.lines, since=wanted.since)
    found: dict[str, list[tuple[str, str, str]]] = {}

    def ask(host: Host) -> int:
        lines = split_lines(host.run_checked(command).text)
        found[host.node.name] = [*_timed(host.node.name, lines)]
        return len(lines)

    outcomes = fleet.ask(nodes, connect, ask)
    for _, node, line in heapq.merge(
        *(found[each.name] for each in nodes if each.name in found), key=lambda one: one[0]
    ):
        show(node, journal.shown(line))
    return outcomes


def _timed(node: str, lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """The lines with their times; further lines of an entry have none of their own."""
    time = ""
    for line in lines:
        if line[:4].isdecimal():
            time = line[: journal.TIME_LENGTH]
        yield time, node, line


@dataclass
class _Lines:
    """Gives ``show`` whole lines of ``node``, one node at a time; sets ``stop`` when that fails."""

    node: str
    show: Show
    lock: threading.Lock
    stop: threading.Event
    count: int = 0
    part: bytes = b""

    def write(self, data: bytes) -> None:
        *lines, part = (self.part + data).split(b"\n")
        self.part = part[-_MAX_PART:]
        self.count += len(lines)
        with self.lock:
            for line in lines:
                try:
                    self.show(self.node, journal.shown(line.decode(errors="replace")))
                except OSError:
                    self.stop.set()
                    raise


def follow(
    nodes: Sequence[Node],
    connect: Connect,
    wanted: Wanted,
    show: Show,
    stop: threading.Event,
    lost: Callable[[SmallkubeError], object],
) -> tuple[Outcome[int], ...]:
    """The same as it grows, until Ctrl-C or ``stop``: then what runs on the machines is ended.

    ``lost`` is given at once why a machine can't be followed any more. When ``show`` fails, all is stopped.
    """
    plain = journal.command(wanted.unit, lines=wanted.lines, since=wanted.since, follow=True)
    ended = SCRIPTS.sent("cancel-on-disconnect", *plain.argv, title=plain.name, timeout=FOLLOW_SECONDS)
    command, lock = replace(ended, hold=True), threading.Lock()

    def ask(host: Host) -> int:
        lines = _Lines(host.node.name, show, lock, stop)
        done = host.run(command, on_stdout=lines.write, stopped=stop.is_set)
        if not done.ok:
            raise host.error(f"journalctl failed: {done.last_line}")
        return lines.count

    @contextmanager
    def connected(node: Node) -> Iterator[Host]:
        try:
            with connect(node) as host:
                yield host
        except SmallkubeError as error:
            if not stop.is_set():
                lost(error)
            raise

    return fleet.ask(nodes, connected, ask, stop)
