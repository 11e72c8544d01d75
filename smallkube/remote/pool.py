"""Connections that stay open for the next question to the same machine, while a task runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from smallkube.inventory.models import Node
from smallkube.remote.host import Connect, Host

KEPT = 128
"""Connections that wait for the next question, at most: each costs a thread here, of which a hundred take 2.6 % of a
core, and a process there. To make a hundred again takes 1.6 seconds of it and more."""


class Pool:
    """Lends connections that ``make`` made, each to one borrower at a time; a context manager, which closes them.

    One that was used before is lent again only if the machine still answers on it. Safe to use from several threads.
    """

    def __init__(self, make: Connect) -> None:
        self.make, self._lock = make, threading.Lock()
        self._idle: list[Host] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is not lent; what is lent is closed when it comes back."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for host in idle:
            host.close()

    @contextmanager
    def connect(self, node: Node) -> Iterator[Host]:
        """A connection to ``node`` for this block alone; a ``Connect``."""
        while host := self._taken(node):
            if host.answers():
                break
            host.close()
        with self._lent(node, host) as lent:
            yield lent

    @contextmanager
    def connect_anew(self, node: Node) -> Iterator[Host]:
        """The same, certainly over a new connection; those that waited for ``node`` are closed."""
        while host := self._taken(node):
            host.close()
        with self._lent(node, None) as lent:
            yield lent

    @contextmanager
    def _lent(self, node: Node, host: Host | None) -> Iterator[Host]:
        if host is None:
            made = self.make(node)
            host = made.__enter__()
        try:
            yield host
        except BaseException:
            host.close()
            raise
        with self._lock:
            keep = not self._closed and len(self._idle) < KEPT
            if keep:
                self._idle.append(host)
        if not keep:
            host.close()

    def _taken(self, node: Node) -> Host | None:
        """The one that was used last."""
        with self._lock:
            for host in reversed(self._idle):
                if host.node == node:
                    self._idle.remove(host)
                    return host
        return None
