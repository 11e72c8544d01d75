"""Taking a backup: a snapshot that was proven on the primary, proven again on its way, sealed, and put in its place."""

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import TEMPORARY_PREFIX, sync_folder
from smallkube.etcd import catalog, facts
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.host import DEFAULT_SOURCE, Source, snapshot
from smallkube.etcd.pipe import Pipe
from smallkube.etcd.record import SUFFIX, Record, timestamp
from smallkube.etcd.stream import Checked, Sealed, check, seal
from smallkube.remote.host import Host

FOLDER_MODE = 0o700


@dataclass(frozen=True)
class Request:
    """What to take; ``older`` allows a lower revision than the last one's."""

    cluster: str
    recipient: str
    now: datetime
    source: Source = DEFAULT_SOURCE
    older: bool = False


def make_folder(folder: Path) -> None:
    """Make ``folder`` for backups, for our eyes only; raises UsageError."""
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        hint = "cluster.backup.dir in inventory.yaml names it"
        raise UsageError(f"can't be made: {error.strerror}", where=str(folder), hint=hint) from error


def take(primary: Host, existing: Catalog, request: Request) -> Record:
    """A new backup in the folder of ``existing``; to be called under its lock.

    Nothing is there under its final name before all was proven. Raises SmallkubeError.
    """
    check_space(existing)
    folder = existing.folder
    temporary = folder / f"{TEMPORARY_PREFIX}{existing.next_sequence}{SUFFIX}"
    arrival = _Arrival(primary.where, temporary, existing, request)
    try:
        result = primary.run(snapshot(request.source), on_stdout=arrival.hear)
        if not result.ok:
            raise SmallkubeError(result.last_line, where=primary.where)
        record = _record(*arrival.end(), existing.next_sequence, request)
        if (folder / record.file).exists():
            raise SmallkubeError("a backup of this name is there already", where=str(folder / record.file))
        temporary.rename(folder / record.file)
    except BaseException:
        arrival.abandon()
        raise
    sync_folder(folder)
    catalog.write_record(folder, record)
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


class _Arrival:
    """What the primary sends, taken apart: first the facts, then the snapshot, which is checked and sealed."""

    def __init__(self, where: str, path: Path, existing: Catalog, request: Request) -> None:
        self._where, self._path, self._existing, self._request = where, path, existing, request
        self._beginning = b""
        self._facts: facts.Facts | None = None
        self._checking: Pipe[Checked] | None = None
        self._sealing: Pipe[Sealed] | None = None

    def hear(self, data: bytes) -> None:
        if self._facts is None:
            self._beginning += data
            head, end, data = self._beginning.partition(facts.END)
            if not end:
                if len(head) > facts.MOST:
                    raise SmallkubeError("the machine's answer can't be understood", where=self._where)
                return
            self._facts = facts.parse(head.decode(errors="replace"))
            self._judge(self._facts)
            self._checking = Pipe(lambda stream: check(stream, self._where))
            self._sealing = Pipe(lambda stream: seal(stream, self._path, self._request.recipient))
        assert self._checking and self._sealing
        self._checking.write(data)
        self._sealing.write(data)

    def _judge(self, found: facts.Facts) -> None:
        last = self._existing.newest
        if last and found.revision < last.revision and not self._request.older:
            raise SmallkubeError(
                f"etcd is at revision {found.revision}, and was at {last.revision} in {last.name}: it was reset, or"
                " restored from an older backup",
                where=self._where,
                hint="if you know why: --allow-older-revision",
            )

    def end(self) -> tuple[facts.Facts, Sealed]:
        """Raises SmallkubeError when anything differs from what the primary had found."""
        if not (self._facts and self._checking and self._sealing):
            raise SmallkubeError("nothing came", where=self._where)
        checked, sealed = self._checking.end(), self._sealing.end()
        if checked != Checked(self._facts.size, self._facts.sha256):
            raise SmallkubeError("what arrived is not what was sent", where=self._where)
        return self._facts, sealed

    def abandon(self) -> None:
        for pipe in (self._checking, self._sealing):
            if pipe:
                pipe.abandon()
        self._path.unlink(missing_ok=True)


def _record(found: facts.Facts, sealed: Sealed, sequence: int, request: Request) -> Record:
    now = timestamp(request.now)
    compact = now.replace("-", "").replace(":", "")
    return Record(
        name=f"{request.cluster}-{compact}-{sequence}",
        cluster=request.cluster,
        sequence=sequence,
        created=now,
        revision=found.revision,
        size=found.size,
        snapshot_sha256=found.sha256,
        stored_size=sealed.size,
        stored_sha256=sealed.sha256,
        etcd=found.etcd,
        recipient=request.recipient,
        keys=found.keys,
        prefixes=found.prefixes,
        kubernetes=found.kubernetes,
        encryption_keys=found.encryption_keys,
        verified=now,
    )
