"""What was deployed when and by whom: a line of JSON for each deploy, kept on the machine it concerns."""

import getpass
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields

from smallkube.core.errors import MALFORMED
from smallkube.remote.host import Command, Host
from smallkube.remote.scripts import HOME

FILE = f"{HOME}/history.jsonl"
_WITHOUT_EFFECT = ("failed", "rolled back", "unknown")


@dataclass(frozen=True)
class Entry:
    """``time`` is UTC in ISO 8601; ``digest`` the bundle's SHA-256; ``generation`` is "" where none was made.

    ``keys`` is the id of the last change of keys/, ``commit`` that of the workspace in git; "" where there is none.
    """

    time: str
    operator: str
    goal: str
    digest: str
    system: str
    generation: str
    outcome: str
    reason: str
    keys: str = ""
    commit: str = ""


def append(host: Host, entry: Entry) -> None:
    """Add ``entry`` to the machine's history, on a line of its own even after one that a power cut left unfinished."""
    line = "\n" + json.dumps(asdict(entry), ensure_ascii=False) + "\n"
    host.run_checked(Command(("tee", "--append", FILE), stdin=line.encode(), title="record"))


def read(host: Host) -> tuple[Entry, ...]:
    """The machine's history, oldest first; empty where nothing was ever deployed."""
    found = host.run(Command(("cat", FILE)))
    return parse(found.text.split("\n")) if found.ok else ()


def parse(lines: Iterable[str]) -> tuple[Entry, ...]:
    """The entries in ``lines``; lines that a power cut left unfinished are skipped."""
    entries = []
    for line in lines:
        with suppress(*MALFORMED):
            found = json.loads(line)
            known = [each.name for each in fields(Entry) if each.default is MISSING or each.name in found]
            entries.append(Entry(**{name: str(found[name]) for name in known}))
    return tuple(entries)


def took_effect(entry: Entry) -> bool:
    """Whether the deploy took effect."""
    return entry.outcome not in _WITHOUT_EFFECT


def last_effective(entries: Iterable[Entry]) -> Entry | None:
    """The newest entry of a deploy that took effect."""
    return next(filter(took_effect, reversed([*entries])), None)


def operator() -> str:
    """The operator as ``user@host``, by number without a name: for the lock and the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
