"""Nodes that must change at the same time: none continues from a sync point before all have reached it.

A change of peers.json concerns every node: the tunnel between two nodes is down while only one has the new version.
"""

import threading
from collections.abc import Callable, Collection
from enum import IntEnum

POLL_SECONDS = 1.0


class SyncPoint(IntEnum):
    """Where the members wait for each other."""

    PREPARED = 1
    ACTIVATED = 2
    CHECKED = 3


class Barrier:
    """The members (node names) of one lockstep deploy; other nodes never wait. Safe to use from several threads."""

    def __init__(self, members: Collection[str] = ()) -> None:
        self._reached: dict[str, int] = dict.fromkeys(members, 0)
        self._faults: dict[str, str] = {}
        self._changed = threading.Condition()

    def wait(self, member: str, point: SyncPoint, fault: str, late: Callable[[], bool]) -> str:
        """Wait until all others have reached ``point`` too, or have left.

        ``fault`` is why this member must not continue, "" when it can; returned is why the others must not. ``late``
        becomes true when it is too late to wait.
        """
        if member not in self._reached:
            return ""
        with self._changed:
            self._report(member, point, fault)
            while not all(reached >= point for reached in self._reached.values()):
                if late():
                    behind = sorted(name for name, reached in self._reached.items() if reached < point)
                    return f"{', '.join(behind)} did not get this far in time"
                self._changed.wait(POLL_SECONDS)
            others = sorted(name for name in self._faults if name != member)
            return f"lockstep deploy aborted: {', '.join(others)} failed" if others else ""

    def leave(self, member: str, fault: str = "") -> None:
        """``member`` takes part no longer; the others don't wait for it."""
        if member in self._reached:
            with self._changed:
                self._report(member, max(SyncPoint), fault)

    def _report(self, member: str, point: int, fault: str) -> None:
        self._reached[member] = max(self._reached[member], point)
        if fault:
            self._faults.setdefault(member, fault)
        self._changed.notify_all()
