"""Telling others how a backup went: a URL that is called, a file for Prometheus. Neither can fail the backup.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/; the file is for node_exporter's textfile
collector. A monitor's address gets ``/fail`` appended for a failure (a convention of healthchecks.io).
"""

import threading
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import write_file
from smallkube.etcd.record import Record

PING_SECONDS = 15


@dataclass(frozen=True)
class News:
    """How a run of etcd.backup ended. ``newest`` is the newest sound backup, of this run or of an earlier one."""

    cluster: str
    good: bool
    at: datetime
    seconds: float
    newest: Record | None
    count: int


def metrics(news: News) -> str:
    """The file's text."""
    rows: list[tuple[str, str, float]] = [
        ("success", "Whether the last run succeeded, copies included.", int(news.good)),
        ("last_run_timestamp_seconds", "When the last run ended.", int(news.at.timestamp())),
        ("duration_seconds", "How long the last run took.", round(news.seconds, 3)),
        ("backups", "How many sound backups there are.", news.count),
    ]
    if newest := news.newest:
        rows += [
            ("last_success_timestamp_seconds", "When the newest sound one was taken.", int(newest.time.timestamp())),
            ("revision", "Revision of etcd in the newest sound one.", newest.revision),
            ("snapshot_bytes", "Size of the snapshot in the newest sound one.", newest.size),
            ("stored_bytes", "Size of the newest sound one, compressed and encrypted.", newest.stored_size),
        ]
    lines = []
    for name, help_, value in rows:
        full = f"smallkube_etcd_backup_{name}"
        lines += [f"# HELP {full} {help_}", f"# TYPE {full} gauge", f'{full}{{cluster="{news.cluster}"}} {value}']
    return "\n".join(lines) + "\n"


def write_metrics(file: Path, news: News) -> str:
    """Why the file could not be written, "" when it was."""
    try:
        write_file(file, metrics(news))
    except SmallkubeError as error:
        return str(error)
    return ""


def ping(url: str, *, good: bool) -> str:
    """Why ``url`` could not be called within PING_SECONDS, "" when it answered."""
    answer: list[str] = []

    def call() -> None:
        try:
            with urllib.request.urlopen(url if good else f"{url.rstrip('/')}/fail", timeout=PING_SECONDS) as reply:
                reply.read(1)
            answer.append("")
        except (OSError, ValueError) as error:
            answer.append(f"{url}: can't be called: {getattr(error, 'reason', None) or error}")

    # In a thread because looking a name up has no time-out of its own.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PING_SECONDS)
    return answer[0] if answer else f"{url}: no answer within {PING_SECONDS} s"
