"""A remote command is a value; this is the one place where it becomes text for a shell."""

import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath

MAX_LINE = 500
"""Characters of what a machine says that go into an error message."""


@dataclass(frozen=True)
class Command:
    """What to run on a node, as root by default.

    ``stdin`` is where secrets and data go: never into ``argv``. ``timeout`` is in seconds without any activity; see
    ``total_timeout`` too. ``hold`` leaves standard input open until the command has ended: its end shows the command
    that the connection is lost. ``title`` is its name in messages (by default the program). ``limit`` is how many bytes
    a Result may hold of each of its streams.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = field(default=None, repr=False)
    root: bool = True
    timeout: float = 60.0
    hold: bool = False
    title: str = ""
    limit: int = 64 << 20

    @property
    def total_timeout(self) -> float:
        """Seconds after which it is given up in any case."""
        return max(600.0, 10 * self.timeout)

    @property
    def name(self) -> str:
        return self.title or PurePosixPath(self.argv[0]).name

    def script(self, become: str, marker: str = "") -> bytes:
        """What a POSIX shell runs: the command in the locale C, as root by way of ``become`` ("none" or "sudo").

        The command's output, on both streams, begins after a line with ``marker``.
        """
        prefix = ("sudo", "-n", "--", "env", "LC_ALL=C") if self.root and become == "sudo" else ()
        mark = f"printf '{marker}\\n'; printf '{marker}\\n' >&2; " if marker else ""
        return f"{mark}exec {shlex.join((*prefix, *self.argv))}".encode(errors="surrogateescape")


def login_line(size: int) -> str:
    """A command line that means the same to every login shell: a POSIX shell reads its script from standard input.

    ``size`` is the script's, in bytes; what follows it there is the command's standard input.
    """
    return f"exec env LC_ALL=C /bin/sh -c 'eval \"$(head -c {size})\"'"


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
        """The last line of its output, or the beginning of it, for an error message."""
        lines = (self.stderr.strip() or self.text.strip()).splitlines()
        return lines[-1][:MAX_LINE] if lines else f"exit status {self.status}, no message"
