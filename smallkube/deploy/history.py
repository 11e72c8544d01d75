"""What was deployed when and by whom: a line of JSON for each deploy, kept on the machine it concerns."""

import getpass
import json
import socket
from dataclasses import asdict, dataclass, fields

from smallkube.deploy.facts import HOME, script
from smallkube.remote.command import Command
from smallkube.remote.host import Host


@dataclass(frozen=True)
class Entry:
    """``time`` is UTC in ISO 8601; ``digest`` the bundle's SHA-256; ``generation`` is "" where none was made."""

    time: str
    operator: str
    goal: str
    digest: str
    system: str
    generation: str
    outcome: str
    reason: str


def append(session: Host, entry: Entry) -> None:
    """Add ``entry`` to the machine's history."""
    line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
    session.run_checked(script("record", stdin=line.encode()))


def read(session: Host) -> tuple[Entry, ...]:
    """The machine's history, oldest first; empty where nothing was ever deployed."""
    found = session.run(Command(("cat", f"{HOME}/history.jsonl")))
    return parse(found.text) if found.ok else ()


def parse(text: str) -> tuple[Entry, ...]:
    """The entries in ``text``; lines that a power cut left unfinished are passed over."""
    return tuple(entry for line in text.split("\n") if (entry := _entry(line)))


def _entry(line: str) -> Entry | None:
    try:
        found = json.loads(line)
        return Entry(**{field.name: str(found[field.name]) for field in fields(Entry)})
    except (ValueError, KeyError, TypeError):
        return None


def operator() -> str:
    """Who is at it, ``user@host``: for the lock and the history."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
