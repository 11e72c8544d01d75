"""Whether a backup is still what it was: without the master key its ciphertext, with it the snapshot itself."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import catalog, stream
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.record import Record, timestamp
from smallkube.secrets.age import Master


@dataclass(frozen=True)
class Finding:
    """``proof`` is what was looked at: the "snapshot", or only the "ciphertext" for want of the master key."""

    name: str
    result: Literal["ok", "failed"]
    proof: Literal["snapshot", "ciphertext", "record"]
    detail: str


def verify(
    existing: Catalog,
    records: Sequence[Record],
    master: Master | None,
    now: datetime,
    step: Callable[[str], object] = lambda _: None,
) -> list[Finding]:
    """Look at every byte of ``records``, and note in each record what was found; to be called under the folder's lock.

    What can't be read as a record is in ``existing.faults`` and not looked at here. Raises SmallkubeError when a
    record can't be written.
    """
    findings = []
    for record in records:
        step(record.name)
        finding = _look(existing, record, master)
        problem = None if finding.result == "ok" else finding.detail
        verified = timestamp(now) if finding.result == "ok" else record.verified
        catalog.write_record(existing.folder, dataclasses.replace(record, verified=verified, problem=problem))
        findings.append(finding)
    return findings


def _look(existing: Catalog, record: Record, master: Master | None) -> Finding:
    path = existing.path(record)
    ours = master if master and record.recipient in master.recipients else None
    proof: Literal["snapshot", "ciphertext"] = "snapshot" if ours else "ciphertext"
    try:
        if stream.hash_file(path) != record.stored_sha256:
            raise SmallkubeError("damaged: its SHA-256 is not the recorded one")
        stream.plaintext_length(path)
        if ours and stream.check_sealed(path, ours).sha256 != record.snapshot_sha256:
            raise SmallkubeError("damaged: the snapshot in it is not the recorded one")
    except SmallkubeError as error:
        return Finding(record.name, "failed", proof, error.message)
    except OSError as error:
        return Finding(record.name, "failed", proof, f"can't be read: {error.strerror}")
    if master and not ours:
        return Finding(record.name, "ok", proof, f"for {record.recipient}, not in keys/master_key")
    return Finding(record.name, "ok", proof, f"revision {record.revision}, {record.size} bytes")
