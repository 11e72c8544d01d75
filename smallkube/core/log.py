"""The log of commands that tasks run: which, where, for how long, how it ended. Never their input or output."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from smallkube.core.errors import one_line
from smallkube.core.workspace import make_folder

_LOGGER = logging.getLogger("smallkube.commands")
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False
_LOGGER.addHandler(logging.NullHandler())
_FORMAT = logging.Formatter("%(asctime)s %(process)d %(message)s")
MAX_BYTES = 1 << 20
"""Size at which the log is rotated; two older ones are kept."""


def command(where: str, name: str, seconds: float, outcome: str) -> None:
    """Note that a command ended: on which host, its name without arguments, its duration, its exit status or fault."""
    _LOGGER.info("%s", one_line(f"{where}: {name}: {outcome} after {seconds:.1f} s"))


@contextmanager
def recording(path: Path | None, *, shown: bool) -> Iterator[Callable[[], bool]]:
    """During the block log to ``path``, whose file is made when something is logged; ``shown``: to standard error too.

    Yields a function that tells whether anything was written to ``path``.
    """
    file = _PrivateFile(path, maxBytes=MAX_BYTES, backupCount=2, encoding="utf-8", delay=True) if path else None
    handlers: list[logging.Handler] = [file] if file else []
    if file:
        file.setFormatter(_FORMAT)
    if shown:
        handlers.append(_StandardError())
    for handler in handlers:
        _LOGGER.addHandler(handler)
    try:
        yield lambda: file is not None and file.written
    finally:
        for handler in handlers:
            _LOGGER.removeHandler(handler)
            handler.close()


class _StandardError(logging.Handler):
    """Standard error as it is at the time: a live display puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


class _PrivateFile(RotatingFileHandler):
    """A log that only its owner may read; one that can't be written is given up without a word."""

    written = False

    def _open(self) -> TextIOWrapper:
        make_folder(Path(self.baseFilename).parent)
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(handle, "a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        self.written = True
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not end the task."""
        self.written = False
