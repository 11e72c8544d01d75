"""The journal of machines, by journalctl(1)."""

from collections.abc import Iterable

from smallkube.core.errors import SmallkubeError, one_line
from smallkube.remote.host import MAX_LINE, Command, Host

_LIMIT = 8 << 20


def command(unit: str, *, lines: int, since: int = 0, follow: bool = False, timeout: float = 60.0) -> Command:
    """What prints the last ``lines`` of a unit's journal since the machine started, or of the last ``since`` seconds.

    ``follow``: and all that is appended, until the connection ends: then journalctl's standard input does, which the
    shell around it waits for.
    """
    when = f"--since=-{since}s" if since else "--boot"
    argv: tuple[str, ...] = (
        "journalctl",
        "--no-pager",
        "--quiet",
        "--output=short-iso",
        f"--lines={lines}",
        when,
        f"--unit={unit}",
    )
    if follow:
        argv = ("/bin/sh", "-c", _FOLLOW, "follow", *argv, "--follow")
    return Command(argv, timeout=timeout, hold=follow, limit=_LIMIT, title="journalctl")


_FOLLOW = """
exec 3<&0
"$@" </dev/null 3<&- &
journal=$!
trap 'kill "$journal" 2>/dev/null' EXIT
{ cat >/dev/null; kill "$journal"; } <&3 >/dev/null 2>&1 &
watch=$!
exec 3<&-
status=0
wait "$journal" || status=$?
kill "$watch" 2>/dev/null
exit "$status"
"""
"""Runs "$@", and ends it when standard input ends."""


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
            found[unit] = "\n".join(shown(line) for line in done.text.splitlines()[-lines:])
    return found
