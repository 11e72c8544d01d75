"""The one interface to a machine, whichever way it is reached."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import BinaryIO, Self

from smallkube.core import log
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Node
from smallkube.remote.command import Command, Result, Streams


class Host(ABC):
    """A machine that runs commands; a context manager.

    Every fault is a SmallkubeError whose ``where`` names the machine; each command is logged.
    """

    def __init__(self, node: Node, where: str) -> None:
        self.node, self.where = node, where

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:  # noqa: B027 - most need no connection
        """Connect, where that is needed."""

    def close(self) -> None:  # noqa: B027
        """Disconnect; what was started detached on the machine goes on."""

    def run(
        self,
        command: Command,
        *,
        on_stderr: Callable[[bytes], object] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
        source: BinaryIO | None = None,
        on_stdout: Callable[[bytes], object] | None = None,
    ) -> Result:
        """Run ``command`` with these Streams.

        Raises SmallkubeError when the connection breaks, there is no activity for ``command.timeout`` seconds, more
        comes than ``command.limit`` bytes, or ``stopped`` becomes true; a command that fails is a Result. Whatever the
        callbacks raise ends the command.
        """
        began, outcome = time.monotonic(), "interrupted"
        try:
            result = self._run(command, Streams(on_stderr, stopped, source, on_stdout))
            outcome = f"exit status {result.status}"
            return result
        except SmallkubeError as error:
            outcome = error.message
            raise
        finally:
            log.command(self.where, command.name, time.monotonic() - began, outcome)

    def run_checked(self, command: Command) -> Result:
        """``run``, and a command that fails is a SmallkubeError with the last line of its output."""
        result = self.run(command)
        if not result.ok:
            raise self.error(f"{command.name} failed: {result.last_line}")
        return result

    def error(self, message: str, hint: str | None = None, *, usage: bool = False) -> SmallkubeError:
        """An error that names this machine; ``usage``: one that the operator has to fix first (exit status 2)."""
        return (UsageError if usage else SmallkubeError)(message, where=self.where, hint=hint)

    @abstractmethod
    def _run(self, command: Command, streams: Streams) -> Result: ...


Connect = Callable[[Node], AbstractContextManager[Host]]
"""A connection of its own to a node while the block runs."""
