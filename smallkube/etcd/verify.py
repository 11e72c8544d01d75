"""Verification of backups: of the encrypted file, and with the master key of the snapshot in it."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError, listed
from smallkube.etcd import catalog, stream
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import Record, timestamp
from smallkube.secrets.age import Master


def verify(backups: Catalog, names: Sequence[str], master: Master | None, step: Callable[[str], object]) -> list[Check]:
    """Read every byte of the backups called ``names`` (all without), and note the results in their records.

    The subject of a check is the backup's name. What was checked is the "snapshot", or only the "ciphertext" for want
    of the master key, or the "record" of what can't be counted as a backup. WARNING: sound as far as it can be checked,
    but not signed with a key of the workspace, or for another master. To be called under the folder's lock.
    Raises UsageError for an unknown name, SmallkubeError when a record can't be written.
    """
    faults = {} if names else backups.faults
    checks = [Check(name, "record", Result.FAILED, fault) for name, fault in faults.items()]
    for record in [backups.find(name) for name in names] or backups.records:
        step(record.name)
        check = _verify(backups, record, master)
        if check.result is not Result.FAILED:
            changed = dataclasses.replace(record, verified=timestamp(datetime.now(UTC)), problem=None)
        else:
            changed = dataclasses.replace(record, problem=check.detail)
        catalog.write_record(backups.folder, changed)
        checks.append(check)
    return checks


def _verify(backups: Catalog, record: Record, master: Master | None) -> Check:
    path, faults = backups.folder / record.file, []
    ours = master if master and not set(record.recipients).isdisjoint(master.recipients) else None
    try:
        if stream.hash_file(path) != record.stored_sha256:
            raise SmallkubeError("damaged: its SHA-256 is not the recorded one")
        stream.read_header(path)
        if ours and stream.verify_backup(path, ours, most=record.size).sha256 != record.snapshot_sha256:
            raise SmallkubeError("damaged: the snapshot in it is not the recorded one")
    except SmallkubeError as error:
        faults.append(error.message)
    except OSError as error:
        faults.append(f"can't be read: {error.strerror}")
    remarks = [] if record.signed else ["signed by an unknown key" if record.signature else "unsigned"]
    if master and not ours:
        remarks.append(f"encrypted to {listed(record.recipients)}, not to {master.where}")
    found = f"revision {record.revision}, {record.size} bytes"
    check = Check.of(record.name, "snapshot" if ours else "ciphertext", faults, found)
    if remarks and not faults:
        return dataclasses.replace(check, result=Result.WARNING, detail="; ".join((*remarks, found)))
    return check
