"""Entries for cron and systemd that run a backup every day, with every path spelled out.

crontab(5): environment settings are whole lines and ``%`` ends a command. systemd.unit(5), systemd.exec(5): ``%`` and
``$`` are special, too.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from smallkube.core.errors import UsageError

PATH = "/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where NixOS and others have ssh, etcdctl and the like."""
_UNITS = Path(__file__).with_name("units")


def entries(argv: Sequence[str], workspace: Path, at: str) -> dict[str, str]:
    """A line for `crontab -e` and two units of systemd, by name, that run ``argv`` every day ``at`` HH:MM.

    All paths are absolute. Raises UsageError.
    """
    time = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", at, re.ASCII)
    if not time:
        raise UsageError(f"--at {at!r}: expected HH:MM")
    hour, minute = int(time[1]), int(time[2])
    variables = (f"PATH={PATH}", f"SMALLKUBE_WORKSPACE={workspace}")
    line = shlex.join(("env", *variables, *argv))  # env: the other lines of the table keep their environment
    values = {
        "environment": " ".join(map(_quoted, variables)),
        "command": " ".join(_quoted(word).replace("$", "$$") for word in argv),
        "time": f"{hour:02}:{minute:02}",
    }
    units = {file.name: Template(file.read_text()).substitute(values) for file in sorted(_UNITS.iterdir())}
    return {"crontab": f"{minute} {hour} * * * {line}\n".replace("%", r"\%"), **units}


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"[^\w/.:=@%+,-]", word) else escaped
