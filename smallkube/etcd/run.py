"""A whole run of etcd.backup: take, prune, copy, tell. What fails after the backup leaves the backup as it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace, lock, remove_temporaries
from smallkube.etcd import backup, catalog, copies, notify, retention
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.host import Source
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Backup, Keep
from smallkube.remote.host import Host
from smallkube.remote.sftp import Destination
from smallkube.secrets.keyring import MASTER_RECIPIENT, read_recipient

LOCK = ".lock"


@dataclass(frozen=True)
class Report:
    """What a run did. ``failed_notifications`` are announcements that did not get through."""

    record: Record
    removed: tuple[str, ...]
    copies: tuple[copies.Copied, ...]
    failed_notifications: tuple[str, ...]

    @property
    def fault(self) -> str:
        """Where the backup should be and is not, "" when it is everywhere."""
        bad = [f"{one.destination}: {one.error}" for one in self.copies if one.error]
        return f"{self.record.name} is here, but not everywhere: {'; '.join(bad)}" if bad else ""


def request(cluster: Cluster, now: datetime, source: Source, *, older: bool) -> backup.Request:
    """What to take; raises UsageError without the master's public key."""
    recipient = read_recipient(cluster.workspace, None)
    if recipient is None:
        where = cluster.workspace.relative(cluster.workspace.keys_dir / MASTER_RECIPIENT)
        raise UsageError("is not here, and backups are encrypted to it", where=where, hint="run `inv keys.generate`")
    return backup.Request(cluster.inventory.cluster.name, recipient, now, source, older)


@contextmanager
def locked(folder: Path) -> Iterator[Catalog]:
    """The backups in ``folder`` while nobody else changes them; what a killed run left half-way is gone."""
    backup.make_folder(folder)
    with lock(folder / LOCK, "backups"):
        remove_temporaries(folder)
        yield catalog.read(folder)


def run(
    cluster: Cluster,
    connect: Callable[[], AbstractContextManager[Host]],
    wanted: backup.Request,
    step: Callable[[str], object],
) -> Report:
    """Take a backup, apply the rule to the older ones, copy, and tell how it went.

    Raises SmallkubeError when no backup could be taken; that is told as well.
    """
    settings, began = cluster.inventory.cluster.backup, time.monotonic()
    for url in settings.copy_to:
        Destination.parse(url)
    with locked(catalog.folder_of(cluster)) as existing:
        try:
            step("take the snapshot")
            with connect() as primary:
                record = backup.take(primary, existing, wanted)
            removed = prune(catalog.read(existing.folder), settings.keep)
            there = catalog.read(existing.folder)
            copied = tuple(copies.copy(cluster.workspace, there, url, settings.keep, step) for url in settings.copy_to)
        except BaseException:
            _tell(cluster.workspace, settings, _news(wanted, existing, began, good=False))
            raise
    good = not any(one.error for one in copied)
    return Report(record, removed, copied, _tell(cluster.workspace, settings, _news(wanted, there, began, good=good)))


def _news(wanted: backup.Request, there: Catalog, began: float, *, good: bool) -> notify.News:
    seconds = time.monotonic() - began
    return notify.News(wanted.cluster, good, datetime.now(UTC), seconds, there.newest, len(there.sound))


def _tell(workspace: Workspace, settings: Backup, news: notify.News) -> tuple[str, ...]:
    """What did not get through."""
    faults = []
    if settings.metrics_file:
        faults.append(notify.write_metrics(workspace.root / Path(settings.metrics_file).expanduser(), news))
    if settings.ping_url:
        faults.append(notify.ping(settings.ping_url, good=news.good))
    return tuple(fault for fault in faults if fault)


def prune(existing: Catalog, keep: Keep) -> tuple[str, ...]:
    """Remove what the rule does not keep; the names. To be called under the folder's lock."""
    staying = retention.kept(existing.records, keep)
    gone = tuple(record.name for record in existing.records if record.name not in staying)
    for name in gone:
        existing.remove(name)
    return gone
