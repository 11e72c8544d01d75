"""A folder of backups: what is in it, as far as it is known without decrypting."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import sync, write_file
from smallkube.core.workspace import expanded
from smallkube.etcd.record import RECORD_LIMIT, RECORD_SUFFIX, SUFFIX, Record, dump, parse
from smallkube.etcd.signature import is_signed, signers
from smallkube.etcd.stream import FILE_MODE
from smallkube.inventory.cluster import Cluster

_NAME = re.compile(r".+-[0-9]{8}T[0-9]{6}Z-[0-9]+(-[0-9a-f]{8})?")
"""What backup.py calls its backups; earlier versions without the hash."""


@dataclass(frozen=True)
class Catalog:
    """``records`` in the order in which they were taken. ``faults``: name → why it can't be counted as a backup.

    ``unfinished``: names of what a killed run, or one under way, has not completed.
    """

    folder: Path
    records: tuple[Record, ...]
    faults: dict[str, str]
    unfinished: tuple[str, ...] = ()

    @property
    def sound(self) -> tuple[Record, ...]:
        """Those that are there and passed their last verification."""
        return tuple(record for record in self.records if record.sound)

    @property
    def unsound(self) -> tuple[str, ...]:
        """Backups that are damaged or incomplete; not what only has an ending in common with a record."""
        faulty = (name for name in self.faults if _NAME.fullmatch(name) or (self.folder / (name + SUFFIX)).is_file())
        return (*faulty, *(record.name for record in self.records if not record.sound))

    @property
    def newest(self) -> Record | None:
        """The last sound one that is signed: what a restore takes by default."""
        return next((record for record in reversed(self.sound) if record.signed), None)

    def find(self, name: str | None) -> Record:
        """The backup called ``name`` (also as a file name or path), ``newest`` by default.

        Raises UsageError when there is no such backup.
        """
        if name is None:
            if self.newest:
                return self.newest
            found = f"no signed backup found, and {len(self.sound)} unsigned" if self.sound else "no backup found"
            hint = "inv etcd.backup takes one" + ("; --name chooses an unsigned one" if self.sound else "")
            raise UsageError(found, where=str(self.folder), hint=hint)
        wanted = Path(name).name.removesuffix(RECORD_SUFFIX).removesuffix(SUFFIX)
        for record in self.records:
            if record.name == wanted:
                return record
        if wanted in self.faults:
            raise SmallkubeError(self.faults[wanted], where=str(self.folder / wanted))
        raise UsageError(f"no backup {wanted}", where=str(self.folder), hint="inv etcd.list shows the backups")

    def remove(self, name: str) -> None:
        """Remove a backup: its record last, so that what a crash leaves is still known."""
        try:
            for suffix in (SUFFIX, RECORD_SUFFIX):
                (self.folder / (name + suffix)).unlink(missing_ok=True)
            sync(self.folder)
        except OSError as error:
            raise SmallkubeError(f"can't be removed: {error.strerror}", where=str(self.folder / name)) from error


def folder_of(cluster: Cluster) -> Path:
    """Where backups are kept: ``cluster.backup.dir``, from the workspace when it is relative."""
    return cluster.workspace.root / expanded(cluster.inventory.cluster.backup.dir)


def of(cluster: Cluster) -> Catalog:
    """The backups of ``cluster``, with what the keys of its workspace have signed."""
    return read(folder_of(cluster), signers(cluster.workspace))


def read(folder: Path, accepted: Collection[str] = ()) -> Catalog:
    """What is in ``folder``, which need not exist. Sizes are compared, contents are not read.

    ``accepted``: the public keys whose signatures count.
    """
    faults: dict[str, str] = {}
    records: list[Record] = []
    unfinished: list[str] = []
    for file in sorted(folder.glob(f"[!.]*{RECORD_SUFFIX}")):
        name = file.name.removesuffix(RECORD_SUFFIX)
        if not file.is_file():  # a folder, or a pipe, which would be waited for
            faults[name] = "its record is not a file"
            continue
        try:
            with file.open("rb") as opened:
                record = parse(opened.read(RECORD_LIMIT), str(file))
            record = replace(record, signed=is_signed(record, accepted))
        except (SmallkubeError, OSError, ValueError) as error:
            why = "is unreadable" if isinstance(error, OSError) else getattr(error, "message", str(error))
            faults[name] = f"its record: {why}"
            continue
        if name == record.name and record.signed and record.verified is None:
            unfinished.append(name)
        elif fault := _fault(folder, file, record):
            faults[name] = fault
        else:
            records.append(record)
    stored = {file.name.removesuffix(SUFFIX) for file in folder.glob(f"[!.]*{SUFFIX}")}
    for name in sorted(stored - faults.keys() - {*unfinished, *(record.name for record in records)}):
        faults[name] = "has no record: it was not completed, or the record was removed"
    in_order = sorted(records, key=lambda record: record.sequence)
    return Catalog(folder, tuple(in_order), faults, tuple(unfinished))


def _fault(folder: Path, file: Path, record: Record) -> str:
    if file.name != record.record_file:
        return f"its record is of another backup ({record.name})"
    stored = folder / record.file
    if not stored.is_file():
        return "missing: there is only its record"
    if (size := stored.stat().st_size) != record.stored_size:
        return f"damaged: it has {size} bytes instead of {record.stored_size}"
    return ""


def write_record(folder: Path, record: Record) -> None:
    """Write or replace the record of a backup; raises SmallkubeError."""
    write_file(folder / record.record_file, dump(record), FILE_MODE)
