"""Machines as this package sees them: something that runs commands, reached anew each time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.remote.command import Command, Result


class Machine(Protocol):
    """What of a ``remote.connection.Session`` is used here; the same errors are raised."""

    where: str

    def run(self, command: Command, *, stopped: Callable[[], bool] = ...) -> Result: ...
    def run_checked(self, command: Command) -> Result: ...


Connect = Callable[[Node], AbstractContextManager[Machine]]
"""A connection of its own to a node while the block runs."""


def ssh_connector(workspace: Workspace) -> Connect:
    """Connections as the inventory and keys/hosts say."""
    from smallkube.remote.ssh import Session

    @contextmanager
    def connect(node: Node) -> Iterator[Machine]:
        session = Session(workspace, node)
        try:
            session.open()
            yield session
        finally:
            session.close()

    return connect
