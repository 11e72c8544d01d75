"""What a newcomer types: the commands of a page as they stand there, into a shell on a terminal."""

import itertools
import os
import pty
import re
import select
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

CTRL_C = b"\x03"


def commands(page: str, section: str) -> list[str]:
    """The lines of the section's shell block, without their comments."""
    found = re.search(rf"^## {section}$.*?^```sh$(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found, section
    return [line.split("  #")[0].strip() for line in found[1].strip().splitlines()]


class Terminal:
    """A shell in ``folder`` that ``lines`` are typed into; what still runs when the block ends is hung up."""

    def __init__(self, lines: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        script = "\n".join(["set -e", *(f"printf '$ %s\\n' {shlex.quote(line)}\n{line}" for line in lines)])
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "-c", script], environment)
        self._shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        os.close(self._terminal)

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace")

    def has_asked(self, times: int) -> bool:
        """Whether so many questions were asked."""
        return self.shown.count("[y/N]") >= times

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Read on until ``condition`` holds; False when the shell has ended before."""
        deadline = time.monotonic() + seconds
        while not condition():
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no end within {seconds} s:\n{self.shown}"
            try:
                self._shown += os.read(self._terminal, 65536)
            except OSError:  # the other side has closed (EIO, see pty(7))
                return False
        return True

    def end(self, seconds: float) -> str:
        """Wait until the shell has ended, which must be well; what the terminal showed."""
        self.until(lambda: False, seconds)
        _, status = os.waitpid(self._pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, self.shown
        return self.shown


def typed(
    lines: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    seconds: float = 1800,
    before_yes: Callable[[str], object] = lambda _: None,
) -> str:
    """Type the lines, and answer every question with yes; what the terminal showed.

    ``before_yes`` gets what it showed up to each question.
    """
    with Terminal(lines, folder, environment) as terminal:
        answered = itertools.count(1)
        while terminal.until(partial(terminal.has_asked, next(answered)), seconds):
            before_yes(terminal.shown)
            terminal.type(b"y\n")
        return terminal.end(seconds)
