"""A rehearsal: a backup is restored into a throw-away etcd on this machine, and compared with what was recorded.

The throw-away etcd listens on unix sockets in a private folder only, and dies with us.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import lock
from smallkube.etcd.catalog import Catalog
from smallkube.etcd.ephemeral import EphemeralEtcd
from smallkube.etcd.programs import Programs
from smallkube.etcd.record import Record
from smallkube.etcd.stream import check_sealed
from smallkube.secrets.age import Master

PREFIX = "drill-"
_SPARE = 200 << 20
"""Bytes for two segments of etcd's log, and some."""
FIRST_REVISION = 1
"""Of an etcd to which nothing was ever written. Records that were made earlier may have 0, as its snapshot's status."""
Result = Literal["ok", "failed", "unknown"]


@dataclass(frozen=True)
class Check:
    """One thing that was compared. "unknown": etcd could not tell when the backup was taken."""

    check: str
    result: Result
    detail: str


@dataclass(frozen=True)
class Contents:
    """What a restored etcd holds.

    Of its Secrets: how many are ``clear``, and how many each key encrypts (``encrypted``, by the key's name).
    """

    revision: int
    keys: int
    prefixes: dict[str, int]
    clear: int
    encrypted: Mapping[str, int]


def rehearse(
    existing: Catalog,
    record: Record,
    master: Master,
    programs: Programs,
    base: Path,
    seconds: int,
    step: Callable[[str], object],
) -> list[Check]:
    """Restore ``record`` below ``base`` and compare. Raises SmallkubeError when it can't even be restored or started.

    ``seconds`` are for each question to etcd, its start included.
    """
    with _private_folder(base, record.size * 2 + _SPARE) as folder:
        step("decrypt")
        with (folder / "snapshot").open("wb") as file:
            checked = check_sealed(existing.path(record), master, file.write)
        etcd = EphemeralEtcd(folder, programs, seconds)
        step("restore")
        etcd.restore("snapshot")
        (folder / "snapshot").unlink()
        step("start etcd")
        with etcd.running():
            step("compare")
            contents = look(etcd)
    whole: Result = "ok" if checked.sha256 == record.snapshot_sha256 else "failed"
    return [Check("snapshot", whole, f"{checked.size} bytes, SHA-256 {checked.sha256[:16]}…"), *judge(record, contents)]


def judge(record: Record, found: Contents) -> Iterator[Check]:
    """Compare what was found with what was recorded."""
    yield Check("health", "ok", "etcd started from it and answers")
    yield _compare("revision", max(record.revision, FIRST_REVISION), found.revision)
    yield _compare("keys", record.keys, found.keys)
    yield _compare_prefixes(record.prefixes, found.prefixes)
    yield _encryption(record, found)


def _compare_prefixes(recorded: Mapping[str, int] | None, found: Mapping[str, int]) -> Check:
    if recorded is None:
        return Check("prefixes", "unknown", f"{len(found)} kinds of keys, not recorded")
    wrong = sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
    if wrong:
        return Check("prefixes", "failed", f"other counts than recorded: {', '.join(wrong[:5])}")
    return Check("prefixes", "ok", f"{len(recorded)} kinds of keys, each as many as recorded")


def _encryption(record: Record, found: Contents) -> Check:
    recorded = {key.name for key in record.encryption_keys}
    if missing := sorted(found.encrypted.keys() - recorded):
        return Check("encryption", "failed", f"Secrets need keys that were not recorded: {', '.join(missing)}")
    if found.clear and recorded:
        return Check("encryption", "failed", f"{found.clear} Secrets are not encrypted")
    needs = ", ".join(f"{count} need {name}" for name, count in sorted(found.encrypted.items()))
    return Check(
        "encryption", "ok", f"{found.clear + sum(found.encrypted.values())} Secrets: {needs or 'none encrypted'}"
    )


def _compare(what: str, recorded: int | None, found: int) -> Check:
    if recorded is None:
        return Check(what, "unknown", f"{found}, not recorded")
    if recorded == found:
        return Check(what, "ok", str(found))
    return Check(what, "failed", f"{found} instead of {recorded}")


def look(etcd: EphemeralEtcd) -> Contents:
    """Read all keys, and of Secrets how their values begin; page after page."""
    prefixes: dict[str, int] = {}
    for key in etcd.names():
        prefix = "/".join(key.split("/")[:3])
        prefixes[prefix] = prefixes.get(prefix, 0) + 1
    clear = 0
    encrypted: dict[str, int] = {}
    for value in etcd.values("/registry/secrets/"):
        parts = value[:200].split(b":", 5)
        if parts[:2] == [b"k8s", b"enc"] and len(parts) == 6:
            name = parts[4].decode(errors="replace")
            encrypted[name] = encrypted.get(name, 0) + 1
        else:
            clear += 1
    return Contents(etcd.revision, sum(prefixes.values()), prefixes, clear, encrypted)


@contextmanager
def _private_folder(base: Path, needed: int) -> Iterator[Path]:
    """An empty folder for our eyes only, and gone afterwards; what killed rehearsals left is removed first."""
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock(base / "drill.lock", "a rehearsal"):
            for leftover in base.glob(f"{PREFIX}*/"):
                shutil.rmtree(leftover)
            free = shutil.disk_usage(base).free
            if free < needed:
                raise UsageError(f"{free >> 20} MiB are free, and {needed >> 20} are needed", where=str(base))
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(base)) from error
