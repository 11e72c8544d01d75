"""Verification of backups: of the encrypted file, and with the master key of the snapshot in it."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime

from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError
from smallkube.etcd import catalog, stream
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import Record, timestamp
from smallkube.secrets.age import Master


def verify(
    existing: Catalog,
    records: Sequence[Record],
    master: Master | None,
    now: datetime,
    step: Callable[[str], object] = lambda _: None,
) -> list[Check]:
    """Read every byte of ``records``, and note the result in each record; to be called under the folder's lock.

    The subject of a check is the backup's name, and what was checked the "snapshot", or only the "ciphertext" for want
    of the master key. Raises SmallkubeError when a record can't be written.
    """
    checks = []
    for record in records:
        step(record.name)
        check = _verify(existing, record, master)
        if check.result is Result.OK:
            changed = dataclasses.replace(record, verified=timestamp(now), problem=None)
        else:
            changed = dataclasses.replace(record, problem=check.detail)
        catalog.write_record(existing.folder, changed)
        checks.append(check)
    return checks


def unreadable(existing: Catalog) -> list[Check]:
    """A failed check of the "record" for each backup that can't be counted as one."""
    return [Check(name, "record", Result.FAILED, fault) for name, fault in existing.faults.items()]


def _verify(existing: Catalog, record: Record, master: Master | None) -> Check:
    path, faults = existing.path(record), []
    ours = master if master and record.recipient in master.recipients else None
    try:
        if stream.hash_file(path) != record.stored_sha256:
            raise SmallkubeError("damaged: its SHA-256 is not the recorded one")
        stream.plaintext_length(path)
        if ours and stream.verify_backup(path, ours).sha256 != record.snapshot_sha256:
            raise SmallkubeError("damaged: the snapshot in it is not the recorded one")
    except SmallkubeError as error:
        faults.append(error.message)
    except OSError as error:
        faults.append(f"can't be read: {error.strerror}")
    unknown = f"encrypted to {record.recipient}, which is not in keys/master_key" if master and not ours else ""
    found = unknown or f"revision {record.revision}, {record.size} bytes"
    return Check.of(record.name, "snapshot" if ours else "ciphertext", faults, found)
