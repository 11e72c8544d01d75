"""What was deployed when and by whom: a line of JSON for each deploy, kept on the machine it concerns."""

import json
from dataclasses import asdict, dataclass

from smallkube.deploy.host import HOME, script
from smallkube.remote.command import Command
from smallkube.remote.connection import Session


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


def append(session: Session, entry: Entry) -> None:
    """Add ``entry`` to the machine's history."""
    line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
    session.must(script("record", stdin=line.encode()))


def read(session: Session) -> tuple[Entry, ...]:
    """The machine's history, oldest first; empty where nothing was ever deployed."""
    found = session.run(Command(("cat", f"{HOME}/history.jsonl")))
    if not found.ok:
        return ()
    return tuple(Entry(**json.loads(line)) for line in found.text.splitlines() if line)
