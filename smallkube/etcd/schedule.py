"""Entries for cron and systemd that run a backup every day, with every path spelled out.

crontab(5): environment settings are whole lines and ``%`` ends a command. systemd.unit(5), systemd.exec(5): ``%`` and
``$`` are special, too.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import UsageError

PATH = "/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where NixOS and others have ssh, etcdctl and the like."""


@dataclass(frozen=True)
class Schedule:
    """``inv`` and ``repository`` are absolute; ``at`` is HH:MM; ``words`` are the task and its flags."""

    inv: Path
    repository: Path
    workspace: Path
    at: tuple[int, int]
    words: tuple[str, ...]

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(self.inv), "-r", str(self.repository), *self.words)


def parse_time(text: str) -> tuple[int, int]:
    """``HH:MM`` → hour and minute; raises UsageError."""
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if not found:
        raise UsageError(f"--at {text!r}: expected HH:MM")
    return int(found[1]), int(found[2])


def crontab(entry: Schedule) -> str:
    """For `crontab -e`. ``env`` sets the workspace so that no other line of the table is affected."""
    hour, minute = entry.at
    words = ("env", f"PATH={PATH}", f"SMALLKUBE_WORKSPACE={entry.workspace}", *entry.argv)
    return f"{minute} {hour} * * * {shlex.join(words).replace('%', chr(92) + '%')}\n"


def service(entry: Schedule) -> str:
    """``smallkube-etcd-backup.service``."""
    return (
        "[Unit]\nDescription=Backup of etcd\nWants=network-online.target\nAfter=network-online.target\n\n"
        "[Service]\nType=oneshot\n"
        f"Environment={_quoted(f'PATH={PATH}')} {_quoted(f'SMALLKUBE_WORKSPACE={entry.workspace}')}\n"
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in entry.argv)}\n"
    )


def timer(entry: Schedule) -> str:
    """``smallkube-etcd-backup.timer``."""
    hour, minute = entry.at
    return (
        "[Unit]\nDescription=Backup of etcd, every day\n\n"
        f"[Timer]\nOnCalendar=*-*-* {hour:02}:{minute:02}:00\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    )


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"[^\w/.:=@%+,-]", word) else escaped
