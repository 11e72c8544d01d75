"""A remote command is a value; this is the one place where it becomes text for a shell."""

import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

Become = Literal["none", "sudo"]


@dataclass(frozen=True)
class Command:
    """What to run on a node, as root unless told otherwise.

    ``stdin`` is where secrets and data go: never into ``argv``. ``timeout`` is in seconds, counted from when anything
    was last heard. ``hold`` leaves standard input open until the command has ended, so that its end tells the command
    that nobody waits for it any more. ``title`` is what messages call it (by default the program).
    """

    argv: tuple[str, ...]
    stdin: bytes | None = field(default=None, repr=False)
    root: bool = True
    timeout: float = 60.0
    hold: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        return self.title or PurePosixPath(self.argv[0]).name

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
    def last_line(self) -> str:
        """The last line that it said, for an error message."""
        lines = (self.stderr.strip() or self.text.strip()).splitlines()
        return lines[-1] if lines else f"exit status {self.status}, no message"
