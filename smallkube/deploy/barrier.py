"""Machines that must change at the same time: nobody goes on from a point before all have reached it.

A change of peers.json concerns every machine: between the first that has learnt it and the last, the tunnel is down.
"""

import threading
from collections.abc import Callable, Collection
from enum import IntEnum

POLL_SECONDS = 1.0


class SyncPoint(IntEnum):
    """Where the members wait for each other."""

    PREPARED = 1
    ACTIVATED = 2
    JUDGED = 3


class Barrier:
    """The members (node names) of one common change; others wait for nobody. Safe to use from several threads."""

    def __init__(self, members: Collection[str]) -> None:
        self._reached: dict[str, int] = dict.fromkeys(members, 0)
        self._complaints: dict[str, str] = {}
        self._changed = threading.Condition()

    def wait(self, member: str, point: SyncPoint, complaint: str, impatient: Callable[[], bool]) -> str:
        """Wait until all others have reached ``point`` too, or have left.

        ``complaint`` is what speaks against going on here ("" for nothing); returned is what speaks against it
        elsewhere. ``impatient`` becomes true when it is too late to wait.
        """
        if member not in self._reached:
            return ""
        with self._changed:
            self._say(member, point, complaint)
            while not all(reached >= point for reached in self._reached.values()):
                if impatient():
                    late = sorted(name for name, reached in self._reached.items() if reached < point)
                    return f"{', '.join(late)} did not get this far in time"
                self._changed.wait(POLL_SECONDS)
            return self._against(member)

    def leave(self, member: str, complaint: str = "") -> None:
        """``member`` does not take part any more; the others don't wait for it."""
        if member in self._reached:
            with self._changed:
                self._say(member, max(SyncPoint), complaint)

    def _say(self, member: str, point: int, complaint: str) -> None:
        self._reached[member] = max(self._reached[member], point)
        if complaint:
            self._complaints.setdefault(member, complaint)
        self._changed.notify_all()

    def _against(self, member: str) -> str:
        others = sorted(name for name in self._complaints if name != member)
        return f"all change together, and {', '.join(others)} did not" if others else ""
