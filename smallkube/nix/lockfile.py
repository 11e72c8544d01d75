"""nix/flake.lock: what it pins, how old that is, and what an update of it changes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from smallkube.core.errors import MALFORMED, SmallkubeError

MAX_DAYS = 30
"""Security updates of a release arrive within days: an older pin lacks some (docs/operating.md, monthly updates)."""
UPDATED = "nixpkgs"
"""The input whose branch moves as long as its release is supported. The age of a fixed revision tells nothing."""


SECOND = "kubernetes-nixpkgs"


@dataclass(frozen=True)
class Pinned:
    """An input: its revision, "" for a path, and the day of that revision, None when the lock does not say."""

    revision: str
    day: date | None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.revision[:12] or "a path", f"of {self.day}" if self.day else "")))


def inputs(text: bytes) -> dict[str, Pinned]:
    """Input of the flake → what the lock file pins it to; nothing of a damaged one.

    Format: https://nix.dev/manual/nix/latest/command-ref/new-cli/nix3-flake (lock files, version 7).
    """
    try:
        nodes = json.loads(text)["nodes"]
        names = {name: node for name, node in nodes["root"]["inputs"].items() if isinstance(node, str)}
        return {name: _pinned(nodes[node]["locked"]) for name, node in names.items()}
    except (*MALFORMED, OverflowError, OSError):
        return {}


def _pinned(locked: Mapping[str, object]) -> Pinned:
    seconds = locked.get("lastModified")
    day = datetime.fromtimestamp(seconds, UTC).date() if isinstance(seconds, int) else None
    return Pinned(str(locked.get("rev", "")), day)


def is_complete(text: bytes | None, *, second: bool) -> bool:
    """Whether there is a lock file, with the ``second`` nixpkgs where the flake has one.

    Without, each node would take the newest revision of a branch by itself.
    """
    return text is not None and (not second or SECOND in inputs(text))


def without_second(text: bytes) -> bytes:
    """The lock file without what pins the second nixpkgs, for a flake that has another one, or none.

    Raises SmallkubeError for a damaged one.
    """
    try:
        lock = json.loads(text)
        node = lock["nodes"][lock["root"]]["inputs"].pop(SECOND, None)
        if node is not None:
            del lock["nodes"][node]
    except MALFORMED as error:
        raise SmallkubeError("damaged", where="nix/flake.lock", hint="restore it from git") from error
    return (json.dumps(lock, indent=2, sort_keys=True) + "\n").encode()


def complaint(text: bytes | None, now: datetime) -> str:
    """What is wrong with the age of the lock file, "" when nothing is, or its age is unknown."""
    pinned = inputs(text or b"").get(UPDATED)
    days = (now.date() - pinned.day).days if pinned and pinned.day else 0
    if days <= MAX_DAYS:
        return ""
    return (
        f"nix/flake.lock has {UPDATED} of {days} days ago: inv nix.render --update-lock, then inv deploy;"
        " if it stays so, this release of NixOS gets no more updates"
    )


def changes(old: bytes | None, new: bytes) -> Iterator[str]:
    """A line for each input that an update changed."""
    before, after = inputs(old or b""), inputs(new)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name, 'none')} → {after.get(name, 'none')}"


def version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """A line for each package with another version."""
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"{name}: {before[name]} → {after[name]}"
