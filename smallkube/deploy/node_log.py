"""The log of one node's deploy: a file, what is shown of a build while it runs, and how long such files are kept."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import make_folder
from smallkube.remote.host import MAX_LINE

KEPT = 200
"""Files that are kept, the newest."""
TAIL_LINES = 20
_MAX_PART = 1 << 16
"""Bytes of a line that has no end yet."""
_PLANNED = re.compile(r"th(?:is|ese)(?: ([0-9]{1,9}))? (derivation|path)s? will be (?:built|fetched)\b")
_BEGUN = re.compile(r"(building|copying path) '/nix/store/")


def path(folder: Path, began: datetime, node: str, nonce: str) -> Path:
    """The log of the deploy ``nonce``, which ``began`` then (UTC): names sort by time."""
    return folder / f"{began:%Y-%m-%dT%H%M%SZ}-{node}-{nonce}.log"


def prune(folder: Path) -> None:
    """Remove all but the newest KEPT logs; what can't be removed stays."""
    with suppress(OSError):
        files = sorted(folder.glob("*.log"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[KEPT:]:
            file.unlink()


def tail(log: str) -> str:
    """Its end."""
    return "\n".join(log.splitlines()[-TAIL_LINES:])


class NodeLog:
    """Appends to ``file``; ``show`` gets each line of a build, and how far that is.

    Nix prints what it is going to build and fetch ("these 12 derivations will be built:", printMissing in its
    src/libmain/shared.cc), and a line as each begins. "12" counts the derivations of a build, a configuration's small
    files among them.
    """

    def __init__(self, file: Path, show: Callable[[str, str], object]) -> None:
        self.file, self.show = file, show
        self._part = b""
        self._planned = {"derivation": 0, "path": 0}
        self._begun = {"building": 0, "copying path": 0}

    def write(self, data: bytes) -> None:
        """Append. Raises SmallkubeError when the file can't be written."""
        try:
            make_folder(self.file.parent)
            with self.file.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise SmallkubeError(f"{self.file} can't be written: {error.strerror}") from error

    def build(self, data: bytes) -> None:
        """Append what a build prints, and show it line by line. Raises SmallkubeError as ``write``."""
        self.write(data)
        *lines, self._part = (self._part + data).split(b"\n")
        self._part = self._part[-_MAX_PART:]
        for line in lines:
            if text := line[: 4 * MAX_LINE].decode(errors="replace").strip()[:MAX_LINE]:
                self._count(text)
                self.show(text, self.counts)

    def _count(self, line: str) -> None:
        if planned := _PLANNED.match(line):
            self._planned[planned[2]] += int(planned[1] or 1)
        elif begun := _BEGUN.match(line):
            self._begun[begun[1]] += 1

    @property
    def counts(self) -> str:
        """What was begun of what was announced, "" before anything was: "building 3 of 12, copying 40 of 80"."""
        parts = (("building", "derivation"), ("copying path", "path"))
        known = [(verb.split()[0], self._begun[verb], self._planned[kind]) for verb, kind in parts]
        return ", ".join(f"{word} {min(begun, all)} of {all}" for word, begun, all in known if all)
