"""The journal of machines, by journalctl(1): in UTC, bounded, and made printable."""

from collections.abc import Iterable

from smallkube.core.errors import SmallkubeError, one_line, split_lines
from smallkube.remote.host import MAX_LINE, Command, Host

LIMIT = 8 << 20
TIME_LENGTH = 26
"""Characters of a line's time that sort, up to its microseconds: the offset that follows differs between versions."""


def command(unit: str, *, lines: int, since: int = 0, follow: bool = False) -> Command:
    """What prints the last ``lines`` (0: all) of a unit's journal since the machine started, or of the last ``since``
    seconds; ``follow``: and all that is appended.
    """
    when = f"--since=-{since}s" if since else "--boot"
    form = ("--no-pager", "--quiet", "--utc", "--output=short-iso-precise", f"--lines={lines or 'all'}")
    argv = ("journalctl", *form, when, f"--unit={unit}", *(("--follow",) if follow else ()))
    return Command(argv, limit=LIMIT, title="journalctl")


def shown(line: str) -> str:
    """A line of a journal, bounded and printable."""
    return one_line(line[:MAX_LINE].replace("\t", " "))


def ends(host: Host, units: Iterable[str], lines: int) -> dict[str, str]:
    """Unit → the end of its journal; a unit whose journal can't be read is left out."""
    found = {}
    for unit in units:
        try:
            done = host.run(command(unit, lines=lines))
        except SmallkubeError:
            continue
        if done.ok and done.text:
            found[unit] = "\n".join(shown(line) for line in split_lines(done.text)[-lines:])
    return found
