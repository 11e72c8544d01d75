"""The log of commands that tasks run: which, where, for how long, how it ended. Never what they were given or said."""

import logging
import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

_LOGGER = logging.getLogger("smallkube.commands")
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False
_LOGGER.addHandler(logging.NullHandler())
_FORMAT = logging.Formatter("%(asctime)s %(process)d %(message)s")
MAX_BYTES = 1 << 20
"""Size at which the log is rotated; two older ones are kept."""


def command(where: str, name: str, seconds: float, outcome: str) -> None:
    """Note that a command ended: on which host, its name without arguments, its duration, its exit status or fault."""
    _LOGGER.info("%s: %s: %s after %.1f s", where, name, outcome, seconds)


def to_file(path: Path) -> None:
    """From now on log to ``path``; the file is made when something is logged."""
    handler = _PrivateFile(path, maxBytes=MAX_BYTES, backupCount=2, encoding="utf-8", delay=True)
    handler.setFormatter(_FORMAT)
    _LOGGER.addHandler(handler)


def to_stderr() -> None:
    """From now on show what is logged on standard error too (--verbose)."""
    _LOGGER.addHandler(logging.StreamHandler())


class _PrivateFile(RotatingFileHandler):
    """A log that only its owner may read; one that can't be written is given up without a word."""

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(handle, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not end the task."""
