"""The one interface to a machine, whichever way it is reached, and the commands that it runs, which are values."""

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, Self

from smallkube.core import log
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Node

_CHUNK = 1 << 16
MAX_LINE = 500
"""Characters of what a machine says that go into an error message."""


@dataclass(frozen=True)
class Command:
    """What to run on a node, as root by default.

    ``stdin`` is where secrets and data go: never into ``argv``. ``timeout`` is in seconds without any activity; see
    ``total_timeout`` too. ``hold`` leaves standard input open until the command has ended: its end shows the command
    that the connection is lost. ``title`` is its name in messages (by default the program). ``limit`` is how many bytes
    a Result may hold of each of its streams.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = field(default=None, repr=False)
    root: bool = True
    timeout: float = 60.0
    hold: bool = False
    title: str = ""
    limit: int = 64 << 20

    @property
    def total_timeout(self) -> float:
        """Seconds after which it is given up in any case."""
        return max(600.0, 10 * self.timeout)

    @property
    def name(self) -> str:
        return self.title or PurePosixPath(self.argv[0]).name

    def script(self, become: str, marker: str = "") -> bytes:
        """What a POSIX shell runs: the command in the locale C, as root by way of ``become`` ("none" or "sudo").

        The command's output, on both streams, begins after a line with ``marker``.
        """
        prefix = ("sudo", "-n", "--", "env", "LC_ALL=C") if self.root and become == "sudo" else ()
        mark = f"printf '{marker}\\n'; printf '{marker}\\n' >&2; " if marker else ""
        return f"{mark}exec {shlex.join((*prefix, *self.argv))}".encode(errors="surrogateescape")


def login_line(size: int) -> str:
    """A command line that means the same to every login shell: a POSIX shell reads its script from standard input.

    ``size`` is the script's, in bytes; what follows it there is the command's standard input.
    """
    return f"exec env LC_ALL=C /bin/sh -c 'eval \"$(head -c {size})\"'"


@dataclass(frozen=True)
class Result:
    """How a command ended. ``stdout`` may be binary."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def text(self) -> str:
        """Standard output as text, without the last line break."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def last_line(self) -> str:
        """The last line of its output, or the beginning of it, for an error message."""
        lines = (self.stderr.strip() or self.text.strip()).splitlines()
        return lines[-1][:MAX_LINE] if lines else f"exit status {self.status}, no message"


@dataclass
class Streams:
    """What a running command is connected to, and what it printed: up to ``Command.limit`` bytes of each stream."""

    command: Command
    where: str
    on_stderr: Callable[[bytes], object]
    stopped: Callable[[], bool]
    source: BinaryIO | None
    on_stdout: Callable[[bytes], object] | None
    _output: bytearray = field(default_factory=bytearray)
    _errors: bytearray = field(default_factory=bytearray)
    _fault: Exception | None = None

    def stdin(self) -> Iterator[bytes]:
        """What the command is to get."""
        yield self.command.stdin or b""
        while self.source and (data := self.source.read(_CHUNK)):
            yield data

    def stdout(self, data: bytes) -> None:
        """Take what was printed; raises SmallkubeError at the limit, and whatever ``on_stdout`` raises."""
        if self.on_stdout:
            self.on_stdout(data)
        else:
            self._keep(self._output, data)

    def stderr(self, data: bytes) -> None:
        """The same, but a fault is raised by ``result``: the rest must still be read, or the command blocks."""
        if self._fault is None:
            try:
                self._keep(self._errors, data)
                self.on_stderr(data)
            except Exception as error:
                self._fault = error

    def _keep(self, kept: bytearray, data: bytes) -> None:
        kept += data
        if len(kept) > self.command.limit:
            message = f"{self.command.name} printed more than {self.command.limit >> 20} MiB"
            raise SmallkubeError(message, where=self.where)

    def result(self, status: int) -> Result:
        """The command's result, now that it has ended."""
        if self._fault:
            raise self._fault
        return Result(status, bytes(self._output), self._errors.decode(errors="replace"))


class Host(ABC):
    """A machine that runs commands; a context manager.

    Every fault is a SmallkubeError whose ``where`` names the machine; each command is logged.
    """

    def __init__(self, node: Node, where: str) -> None:
        self.node, self.where = node, where

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:  # noqa: B027 - most need no connection
        """Connect, where that is needed."""

    def close(self) -> None:  # noqa: B027
        """Disconnect; what was started detached on the machine goes on."""

    def answers(self) -> bool:
        """Whether the connection still reaches the machine."""
        return True

    def run(
        self,
        command: Command,
        *,
        on_stderr: Callable[[bytes], object] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
        source: BinaryIO | None = None,
        on_stdout: Callable[[bytes], object] | None = None,
    ) -> Result:
        """Run ``command``.

        ``on_stderr`` gets standard error piece by piece as it comes; ``on_stdout`` standard output, which the Result
        does not have then. ``source`` is read to its end and sent after ``command.stdin``, no faster than it is read
        there.

        Raises SmallkubeError when the connection breaks, there is no activity for ``command.timeout`` seconds, more
        comes than ``command.limit`` bytes, or ``stopped`` becomes true; a command that fails is a Result. Whatever the
        callbacks raise ends the command.
        """
        began, outcome = time.monotonic(), "interrupted"
        try:
            streams = Streams(command, self.where, on_stderr, stopped, source, on_stdout)
            result = streams.result(self._run(streams))
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
    def _run(self, streams: Streams) -> int:
        """The exit status of the command, which reads and prints by ``streams``."""


Connect = Callable[[Node], AbstractContextManager[Host]]
"""A connection of its own to a node while the block runs."""
