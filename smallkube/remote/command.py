"""A remote command is a value; this is the one place where it becomes text for a shell."""

import shlex
from dataclasses import dataclass, field
from typing import Literal

Become = Literal["none", "sudo"]


@dataclass(frozen=True)
class Command:
    """What to run on a node, as root unless told otherwise.

    ``stdin`` is where secrets and data go: never into ``argv``. ``timeout`` is in seconds.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = field(default=None, repr=False)
    root: bool = True
    timeout: float = 60.0

    def line(self, become: Become) -> str:
        """The command line for the login shell of a user who becomes root in this way."""
        prefix = ("sudo", "-n", "--") if self.root and become == "sudo" else ()
        return shlex.join((*prefix, *self.argv))


@dataclass(frozen=True)
class Result:
    """How a command ended. ``stdout`` may be binary."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def text(self) -> str:
        """Standard output as text, without the last line break."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def last_words(self) -> str:
        """The last line that it said, for an error message."""
        lines = (self.stderr.strip() or self.text.strip()).splitlines()
        return lines[-1] if lines else f"exit status {self.status}, no message"
