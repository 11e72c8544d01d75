"""What was deployed when and by whom: a line of JSON for each deploy, kept on the machine it concerns."""

import getpass
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from smallkube.remote.host import Command, Host
from smallkube.remote.scripts import HOME

FILE = f"{HOME}/history.jsonl"
_SENT = "sent"
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


_ENTRY = TypeAdapter(Entry)


def now() -> str:
    """As the ``time`` of an entry."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sent(keys: str) -> Entry:
    """For certificates that were sent to the API server without a deploy. facts.sh shows the last of these only."""
    return Entry(now(), operator(), "identities", "", "", "", _SENT, "", keys)


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
        with suppress(ValueError):
            entries.append(_ENTRY.validate_json(line))
    return tuple(entries)


def effective(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Those of deploys that took effect, newest first."""
    return tuple(entry for entry in reversed([*entries]) if entry.outcome not in (*_WITHOUT_EFFECT, _SENT))


def keys(entries: Iterable[Entry]) -> str:
    """The id of the last change of keys/ that reached the machine, "" when that is not known."""
    return next((one.keys for one in reversed([*entries]) if one.keys and one.outcome not in _WITHOUT_EFFECT), "")


def operator() -> str:
    """The operator as ``user@host``, by number without a name: for the lock and the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
