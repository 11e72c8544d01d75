"""A drill: a backup is restored into an ephemeral etcd on this machine, and compared with what was recorded."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import lock
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.ephemeral import EphemeralEtcd
from smallkube.etcd.record import Record
from smallkube.etcd.stream import verify_backup
from smallkube.secrets.age import Master

PREFIX = "drill-"
_SECRETS = b"/registry/secrets/"
_SPARE = 200 << 20
"""Bytes for two segments of etcd's log, and some."""


@dataclass(frozen=True)
class Contents:
    """What a restored etcd holds.

    Of its Secrets: how many are ``clear``, and how many each key encrypts (``encrypted``, by the key's name).
    """

    revision: int
    prefixes: Mapping[str, int]
    clear: int
    encrypted: Mapping[str, int]
    alarms: tuple[str, ...] = ()


def drill(
    existing: Catalog,
    record: Record,
    master: Master,
    programs: Mapping[str, str],
    base: Path,
    seconds: int,
    step: Callable[[str], object],
) -> list[Check]:
    """Restore ``record`` below ``base`` and compare. Raises SmallkubeError when it can't even be restored or started.

    ``seconds`` are for each request to etcd, its start included.
    """
    with _private_folder(base, record.size * 2 + _SPARE) as folder:
        step("decrypt")
        with (folder / "snapshot").open("wb") as file:
            found = verify_backup(existing.folder / record.file, master, file.write, record.size)
        etcd = EphemeralEtcd(folder, programs, seconds)
        step("restore")
        etcd.restore("snapshot")
        (folder / "snapshot").unlink()
        step("start etcd")
        with etcd.running():
            step("compare")
            contents = read(etcd)
    faults = () if found.sha256 == record.snapshot_sha256 else ("not the recorded one",)
    snapshot = Check.of(record.name, "snapshot", faults, f"{found.size} bytes, SHA-256 {found.sha256[:16]}…")
    return [snapshot, *compare(record, contents)]


def compare(record: Record, found: Contents) -> Iterator[Check]:
    """Compare what etcd holds with what was recorded. SKIPPED: etcd could not tell when the backup was taken."""
    yield Check(record.name, "health", Result.OK, "etcd started from it and answers")
    # That of an etcd to which nothing was ever written is 1; older records may have 0, as its snapshot's status.
    yield _equal(record, "revision", max(record.revision, 1), found.revision)
    yield _equal(record, "keys", record.keys, sum(found.prefixes.values()))
    yield _prefixes(record, found.prefixes)
    yield _encryption(record, found)
    raised = ", ".join(found.alarms)
    detail = f"{raised} raised when it was taken; a restore disarms NOSPACE" if raised else "none"
    yield Check(record.name, "alarms", Result.WARNING if raised else Result.OK, detail)


def _equal(record: Record, name: str, recorded: int | None, found: int) -> Check:
    if recorded is None:
        return Check(record.name, name, Result.SKIPPED, f"{found}, not recorded")
    return Check.of(record.name, name, [f"{found} instead of {recorded}"] if found != recorded else [], str(found))


def _prefixes(record: Record, found: Mapping[str, int]) -> Check:
    recorded = record.prefixes
    if recorded is None:
        return Check(record.name, "prefixes", Result.SKIPPED, f"{len(found)} kinds of keys, not recorded")
    wrong = sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
    faults = [f"other counts than recorded: {', '.join(wrong[:5])}"] if wrong else []
    return Check.of(record.name, "prefixes", faults, f"{len(recorded)} kinds of keys, each as many as recorded")


def _encryption(record: Record, found: Contents) -> Check:
    recorded, faults = {key.name for key in record.encryption_keys}, []
    if missing := sorted(found.encrypted.keys() - recorded):
        faults.append(f"Secrets need keys that were not recorded: {', '.join(missing)}")
    if found.clear and recorded:
        faults.append(f"{found.clear} Secrets are not encrypted")
    count = found.clear + sum(found.encrypted.values())
    needs = ", ".join(f"{number} need {name}" for name, number in sorted(found.encrypted.items()))
    return Check.of(record.name, "encryption", faults, f"{count} Secrets: {needs or 'none encrypted'}")


def read(etcd: EphemeralEtcd) -> Contents:
    """Read all keys, and of Secrets how their values begin."""
    names = (key.decode(errors="replace") for key, _ in etcd.entries(b"", "--keys-only"))
    prefixes = Counter("/".join(name.split("/")[:3]) for name in names)
    clear, encrypted = 0, Counter[str]()
    for key, value in etcd.entries(_SECRETS):
        if not key.startswith(_SECRETS):
            break
        parts = value[:200].split(b":", 5)
        if parts[:2] == [b"k8s", b"enc"] and len(parts) == 6:
            encrypted[parts[4].decode(errors="replace")] += 1
        else:
            clear += 1
    status = etcd.status()
    return Contents(status.revision, prefixes, clear, encrypted, status.alarms)


@contextmanager
def _private_folder(base: Path, needed: int) -> Iterator[Path]:
    """An empty folder of mode 0700, removed afterwards; what killed drills left is removed first."""
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock(base / "drill.lock", "a drill"):
            for leftover in base.glob(f"{PREFIX}*/"):
                shutil.rmtree(leftover)
            free = shutil.disk_usage(base).free
            if free < needed:
                raise UsageError(f"{free >> 20} MiB are free, and {needed >> 20} are needed", where=str(base))
            with tempfile.TemporaryDirectory(prefix=PREFIX, dir=base, ignore_cleanup_errors=True) as folder:
                yield Path(folder)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(base)) from error
