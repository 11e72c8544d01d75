"""How often the API server was restarted while something was done, and how long it was away, by systemd's journal."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from smallkube.core.errors import MALFORMED
from smallkube.inventory.models import Node
from smallkube.remote.command import Command
from smallkube.remote.host import Connect

# Message ids of systemd (sd-messages.h): a unit is being stopped, its main process has ended, it has started. The API
# server's unit counts as started when it answers.
_DOWN = frozenset({"de5b426a63be47a7b6ac3eaac82e2f6f", "98e322203f7a4ed290d09fe03c09fe15"})
_UP = "39f53479d3a045ac8e11786248231fbf"


@dataclass
class Outage:
    """``seconds``: from the beginning of each stop until it answered again, added up."""

    restarts: int = 0
    seconds: float = 0.0

    def add(self, lines: str) -> None:
        """What ``journalctl --output json`` says of its unit."""
        down = 0
        for line in lines.splitlines():
            try:
                entry = json.loads(line)
                when = int(entry["__REALTIME_TIMESTAMP"])
            except MALFORMED:
                continue
            if entry.get("MESSAGE_ID") in _DOWN:
                down = down or when
            elif entry.get("MESSAGE_ID") == _UP and down:
                self.restarts += 1
                self.seconds += (when - down) / 1e6
                down = 0

    @property
    def as_json(self) -> dict[str, float]:
        """For a program."""
        return {"restarts": self.restarts, "seconds": round(self.seconds, 1)}

    @property
    def words(self) -> str:
        """For a person."""
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        return f"the API server restarted {times} and did not answer for {self.seconds:.0f} s in all"


@contextmanager
def counted(connect: Connect, primary: Node) -> Iterator[Outage]:
    """What happens while the block runs; known once the block has ended without an error."""
    with connect(primary) as machine:
        began = machine.run_checked(Command(("date", "+%s"), root=False)).text.strip()
    outage = Outage()
    yield outage
    argv = ("journalctl", "--unit=kube-apiserver.service", f"--since=@{began}", "--output=json", "--no-pager")
    with connect(primary) as machine:
        reply = machine.run_checked(Command((*argv, "--output-fields=MESSAGE_ID"), title="read the journal"))
    outage.add(reply.text)
