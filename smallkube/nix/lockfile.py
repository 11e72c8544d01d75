"""nix/flake.lock: what it pins, whether that is what flake.nix names, how old it is, and what an update changes."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from smallkube.core.errors import MALFORMED, SmallkubeError

MAX_DAYS = 30
"""Security updates of a release arrive within days: an older pin lacks some (docs/operating.md, monthly updates)."""
UPDATED = "nixpkgs"
"""The input whose branch moves as long as its release is supported. The age of a fixed revision tells nothing."""
SECOND = "kubernetes-nixpkgs"
_URL = re.compile(rb'^ *([\w-]+)\.url = "github:([\w.-]+)/([\w.-]+)(?:/([\w.-]+))?";$', re.MULTILINE)
"""An input as `inv nix.render` writes it."""
_REVISION = re.compile("[0-9a-f]{40}")


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


def stale(text: bytes | None, flake: bytes) -> dict[str, str]:
    """Input of ``flake`` (flake.nix) that the lock file does not pin, or of another branch or revision → in words.

    Nix does not use such a pin, so each node would take the newest revision of the branch by itself: ``lockFlake``
    compares ``original`` with the URL (src/libexpr/flake/flake.cc). Of a second nixpkgs that flake.nix no longer names,
    each would write another lock file into its copy of the bundle. Empty without a lock file.
    """
    found = {} if text is None else {name.decode(): _place(*rest) for name, *rest in _URL.findall(flake)}
    pinned = _originals(text or b"")
    surplus = SECOND in pinned and SECOND.encode() not in flake
    return ({SECOND: "is pinned, flake.nix does not name it"} if surplus else {}) | {
        name: f"pins {_url(pinned[name])}, flake.nix names {_url(place)}" if name in pinned else "is not pinned"
        for name, place in found.items()
        if pinned.get(name) != place
    }


def stale_line(text: bytes | None, flake: bytes) -> str:
    """The same as one line with the command, "" when nothing is stale."""
    found = [f"{name} {words}" for name, words in stale(text, flake).items()]
    return f"nix/flake.lock is stale: {'; '.join(found)}: inv nix.render --update-lock" if found else ""


def is_complete(text: bytes | None, flake: bytes) -> bool:
    """Whether there is a lock file that pins all that ``flake`` names."""
    return text is not None and not stale(text, flake)


def _place(owner: bytes, repo: bytes, last: bytes) -> dict[str, object]:
    """A URL ``github:OWNER/REPO/LAST`` as Nix writes it in the lock file: what looks like a revision is one."""
    place: dict[str, object] = {"type": "github", "owner": owner.decode(), "repo": repo.decode()}
    if last:
        place["rev" if _REVISION.fullmatch(last.decode()) else "ref"] = last.decode()
    return place


def _url(place: object) -> str:
    parts = place if isinstance(place, Mapping) else {}
    words = [str(parts[key]) for key in ("owner", "repo", "ref", "rev") if key in parts]
    plain = parts.get("type") == "github" and all(re.fullmatch(r"[\w.-]{1,60}", word) for word in words)
    return "/".join(map(short, words)) if plain else "another place"


def short(name: str) -> str:
    """A revision as its first 12 digits, a branch as it is."""
    return name[:12] if _REVISION.fullmatch(name) else name


def _originals(text: bytes) -> dict[str, object]:
    """Input → what flake.nix named when it was pinned; nothing of a damaged lock file."""
    try:
        nodes = json.loads(text)["nodes"]
        names = {name: node for name, node in nodes["root"]["inputs"].items() if isinstance(node, str)}
        return {name: nodes[node]["original"] for name, node in names.items()}
    except MALFORMED:
        return {}


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


def complaint(text: bytes | None, flake: bytes, now: datetime) -> str:
    """What is wrong with the lock file of ``flake``: it is stale, or old; "" when nothing is, or its age is unknown."""
    if line := stale_line(text, flake):
        return line
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
