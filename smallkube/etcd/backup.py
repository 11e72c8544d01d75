"""Backups of etcd: a snapshot is taken, verified, encrypted and recorded; then retention, copies, notifications."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import TEMPORARY_PREFIX, lock, remove_temporaries, sync
from smallkube.etcd import catalog, notify, retention, signature
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import SUFFIX, Announced, Record, Snapshot, timestamp
from smallkube.etcd.status import ENCRYPTION_CONFIGURATION, ENDPOINT, SCRIPTS
from smallkube.etcd.stream import Digest, Pipe, encrypt, verify_snapshot
from smallkube.inventory.cluster import Cluster
from smallkube.remote import scripts
from smallkube.remote.host import Host
from smallkube.secrets.age import MASTER_RECIPIENT
from smallkube.secrets.keyring import admins_of

if TYPE_CHECKING:
    from smallkube.etcd import copies

_COMPRESSION_SECONDS = 600
_LINE_LIMIT = 1 << 16
"""Bytes of JSON before and after the snapshot."""


@dataclass(frozen=True)
class Options:
    """``scratch`` is a folder on the primary for the snapshot, ``seconds`` are for each request to etcd.

    ``older`` allows a lower revision than the last backup's.
    """

    endpoint: str = ENDPOINT
    scratch: str = "/var/lib/smallkube/snapshots"
    seconds: int = 300
    older: bool = False


@dataclass(frozen=True)
class Identity:
    """What a backup is of (the cluster's name), encrypted to, and signed with."""

    cluster: str
    recipients: tuple[str, ...]
    key: Ed25519PrivateKey


@dataclass(frozen=True)
class Report:
    """What a backup run did."""

    record: Record
    removed: tuple[str, ...]
    copies: "tuple[copies.Copied, ...]"
    failed_notifications: tuple[str, ...]

    @property
    def fault(self) -> str:
        """Which off-site copies failed, "" when none did."""
        bad = [f"{one.destination}: {one.error}" for one in self.copies if one.error]
        return f"{self.record.name} was taken, but copies failed: {'; '.join(bad)}" if bad else ""


@contextmanager
def locked(cluster: Cluster, *, make: bool = False) -> Iterator[Catalog]:
    """Lock and read the backups of ``cluster``, and remove what a killed run left there.

    Raises UsageError, also when there is no such folder, unless it is to be made.
    """
    folder = catalog.folder_of(cluster)
    if not (make or folder.is_dir()):
        catalog.read(folder).find(None)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        hint = "cluster.backup.dir in inventory.yaml names it"
        raise UsageError(f"can't be made: {error.strerror}", where=str(folder), hint=hint) from error
    with lock(folder / ".lock", "backups"):
        remove_temporaries(folder)
        there = catalog.of(cluster)
        for name in there.unfinished:
            there.remove(name)
        yield there


def run(
    cluster: Cluster, connection: AbstractContextManager[Host], options: Options, step: Callable[[str], object]
) -> Report:
    """Take a backup, apply the retention policy to the others, copy, and notify.

    Raises UsageError without a public key to encrypt to, and SmallkubeError, of which it notifies as well, when no
    backup could be taken.
    """
    settings, now = cluster.inventory.cluster.backup, datetime.now(UTC)
    began, good = time.monotonic(), False
    recipients = tuple(admins_of(cluster).values())
    if not recipients:
        where = cluster.workspace.relative(cluster.workspace.keys_dir / MASTER_RECIPIENT)
        raise UsageError("not found, and backups are encrypted to it", where=where, hint="run `inv keys.generate`")
    if settings.copy_to:
        from smallkube.etcd import copies
        from smallkube.remote.sftp import Destination

        for url in settings.copy_to:
            Destination.parse(url)
    with locked(cluster, make=True) as existing:
        try:
            key = signature.signing_key(cluster.workspace)
            step("take the snapshot")
            with connection as primary:
                ours = Identity(cluster.inventory.cluster.name, recipients, key)
                record = take(primary, existing, ours, now, options)
            removed = retention.removable(catalog.of(cluster).records, settings.keep)
            for name in removed:
                existing.remove(name)
            kept = catalog.of(cluster)
            copied = tuple(copies.copy(cluster.workspace, kept, url, settings.keep, step) for url in settings.copy_to)
            good = not any(one.error for one in copied)
        finally:
            failed = notify.notify(cluster, good, time.monotonic() - began, catalog.of(cluster))
    return Report(record, removed, copied, failed)


def take(primary: Host, existing: Catalog, ours: Identity, now: datetime, options: Options) -> Record:
    """A new backup in the folder of ``existing``; to be called under its lock.

    It gets its final name once all is verified. Raises SmallkubeError.
    """
    check_space(existing)
    folder, sequence = existing.folder, max((record.sequence for record in existing.records), default=0) + 1
    temporary = folder / f"{TEMPORARY_PREFIX}{sequence}{SUFFIX}"
    receiver = SnapshotReceiver(primary.where, temporary, ours.recipients, None if options.older else existing.newest)
    arguments = (options.endpoint, options.scratch, str(options.seconds), ENCRYPTION_CONFIGURATION)
    seconds = 2 * options.seconds + _COMPRESSION_SECONDS
    work = SCRIPTS.sent("snapshot", *arguments)
    command = SCRIPTS.sent("cancel-on-disconnect", *work.argv, timeout=seconds, title=work.name)
    try:
        result = primary.run(replace(command, hold=True), on_stdout=receiver.write)
        if not result.ok:
            raise primary.error(result.last_line)
        snapshot, stored = receiver.end()
        record = Record(
            **vars(snapshot),
            name=f"{ours.cluster}-{now:%Y%m%dT%H%M%SZ}-{sequence}-{stored.sha256[:8]}",
            cluster=ours.cluster,
            sequence=sequence,
            created=timestamp(now),
            stored_size=stored.size,
            stored_sha256=stored.sha256,
            recipient=ours.recipients[0],
            further_recipients=ours.recipients[1:],
        )
        record = signature.sign(record, ours.key)
        # First, and not yet as verified: it tells whose the file is that a killed run leaves.
        catalog.write_record(folder, record)
        temporary.rename(folder / record.file)
        sync(folder)
        record = replace(record, verified=record.created)
        catalog.write_record(folder, record)
    except BaseException:
        receiver.abandon()
        raise
    return record


def check_space(existing: Catalog) -> None:
    """Raise SmallkubeError when there is no room for another backup as large as the last one."""
    free = shutil.disk_usage(existing.folder).free
    if existing.newest and free < (needed := existing.newest.stored_size * 6 // 5):
        raise SmallkubeError(
            f"{free >> 20} MiB are free, and the next backup is expected to take {needed >> 20} MiB",
            where=str(existing.folder),
            hint="make room, or keep fewer (cluster.backup.keep, inv etcd.prune)",
        )


class SnapshotReceiver:
    """What the primary sends (snapshot.sh): the snapshot between two lines, verified and encrypted as it arrives."""

    def __init__(self, where: str, path: Path, recipients: Sequence[str], last: Record | None) -> None:
        self._where, self._path, self._recipients, self._last = where, path, recipients, last
        self._held, self._size = deque[bytes](), 0  # the last bytes that came, which may be those of the last line
        self._pipes: tuple[Pipe, ...] = ()

    def write(self, data: bytes) -> None:
        self._hold(data)
        if not self._pipes:
            line, end, rest = b"".join(self._held).partition(b"\n")
            if not end and len(line) < _LINE_LIMIT:
                return
            self._start(scripts.parse(line, Announced, "snapshot", self._where).size)
            self._held.clear()
            self._size = 0
            self._hold(rest)
        while self._size - len(self._held[0]) >= _LINE_LIMIT:
            self._pass(self._held.popleft())

    def end(self) -> tuple[Snapshot, Digest]:
        """The snapshot and the encrypted file; raises SmallkubeError unless all arrived as it was sent."""
        if not self._pipes:
            raise SmallkubeError("no snapshot was received", where=self._where)
        rest, _, line = b"".join(self._held).removesuffix(b"\n").rpartition(b"\n")
        snapshot = scripts.parse(line, Snapshot, "snapshot", self._where)
        if (last := self._last) and snapshot.revision < last.revision:
            raise SmallkubeError(
                f"etcd is at revision {snapshot.revision}, and was at {last.revision} in {last.name}: it was reset, or"
                " restored from an older backup",
                where=self._where,
                hint="if you know why: --allow-older-revision",
            )
        self._pass(rest)
        received, stored = (pipe.end() for pipe in self._pipes)
        if received != Digest(snapshot.size, snapshot.snapshot_sha256):
            raise SmallkubeError("the snapshot received differs from the one sent", where=self._where)
        return snapshot, stored

    def abandon(self) -> None:
        for pipe in self._pipes:  # all, before another signal can come while one is waited for
            pipe.close()
        for pipe in self._pipes:
            pipe.join()
        self._path.unlink(missing_ok=True)

    def _start(self, size: int) -> None:
        self._pipes = (
            Pipe(lambda stream: verify_snapshot(stream, self._where, most=size)),
            Pipe(lambda stream: encrypt(stream, self._path, self._recipients)),
        )
        for pipe in self._pipes:
            pipe.start()

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._size += len(data)

    def _pass(self, data: bytes) -> None:
        self._size -= len(data)
        for pipe in self._pipes:
            pipe.write(data)
