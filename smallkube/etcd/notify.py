"""Notifications of how a backup run ended: a URL that is called, a file for Prometheus. Neither fails the backup.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/; the file is for node_exporter's textfile
collector. A monitor's path gets ``/fail`` appended for a failure (a convention of healthchecks.io).
"""

import threading
from datetime import UTC, datetime
from urllib.parse import urlsplit

from smallkube.core.errors import SmallkubeError
from smallkube.core.files import write_file
from smallkube.core.workspace import expanded
from smallkube.etcd.catalog import Catalog
from smallkube.inventory.cluster import Cluster

PING_SECONDS = 15


def metrics(cluster: str, good: bool, now: datetime, seconds: float, backups: Catalog) -> str:
    """The file's text after a run that took so many ``seconds``; the newest backup may be of a previous run."""
    rows: list[tuple[str, str, float]] = [
        ("success", "Whether the last run succeeded, copies included.", int(good)),
        ("last_run_timestamp_seconds", "When the last run ended.", int(now.timestamp())),
        ("duration_seconds", "How long the last run took.", round(seconds, 3)),
        ("backups", "How many sound backups there are.", len(backups.sound)),
    ]
    if newest := backups.newest:
        rows += [
            ("last_success_timestamp_seconds", "When the newest sound one was taken.", int(newest.time.timestamp())),
            ("revision", "Revision of etcd in the newest sound one.", newest.revision),
            ("snapshot_bytes", "Size of the snapshot in the newest sound one.", newest.size),
            ("stored_bytes", "Size of the newest sound one, compressed and encrypted.", newest.stored_size),
        ]
    lines = []
    for name, help_, value in rows:
        full = f"smallkube_etcd_backup_{name}"
        lines += [f"# HELP {full} {help_}", f"# TYPE {full} gauge", f'{full}{{cluster="{cluster}"}} {value}']
    return "\n".join(lines) + "\n"


def notify(cluster: Cluster, good: bool, seconds: float, backups: Catalog) -> tuple[str, ...]:
    """Notify of a run that took so many ``seconds``; why a notification failed, for each that did."""
    settings, failed = cluster.inventory.cluster.backup, []
    if settings.metrics_file:
        text = metrics(cluster.inventory.cluster.name, good, datetime.now(UTC), seconds, backups)
        path = cluster.workspace.root / expanded(settings.metrics_file)
        try:
            if path.exists() and not path.is_file():  # such as /dev/null, which root would replace
                raise SmallkubeError("is not a file", where=str(path))
            write_file(path, text)
        except SmallkubeError as error:
            failed.append(str(error))
    if settings.ping_url:
        failed.append(ping(settings.ping_url, good=good))
    return tuple(fault for fault in failed if fault)


def ping(url: str, *, good: bool) -> str:
    """Why ``url`` could not be called within PING_SECONDS, "" when it answered."""
    import urllib.request
    from http.client import HTTPException

    answer: list[str] = []

    def call() -> None:
        try:
            parts = urlsplit(url)  # what follows a ``?`` would swallow an ending
            failure = parts._replace(path=f"{parts.path.rstrip('/')}/fail").geturl()
            with urllib.request.urlopen(url if good else failure, timeout=PING_SECONDS) as reply:
                reply.read(1)
            answer.append("")
        except (OSError, ValueError, HTTPException) as error:
            answer.append(f"{url}: can't be called: {getattr(error, 'reason', None) or error!r}")

    # In a thread because looking a name up has no time-out of its own.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PING_SECONDS)
    return answer[0] if answer else f"{url}: no answer within {PING_SECONDS} s"
