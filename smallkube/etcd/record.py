"""The record of one backup: a JSON file in the same folder, readable without any key."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from smallkube.core.errors import SmallkubeError

FORMAT = 2
"""What is written; 1, which has neither alarms nor a signature, is read, too."""
SUFFIX = ".db.zst.age"
"""Of a backup: bbolt database with etcd's SHA-256 at its end, zstd (RFC 8878), age."""
RECORD_SUFFIX = ".json"
RECORD_LIMIT = 1 << 20
"""Bytes: what is longer is no record."""


@dataclass(frozen=True)
class EncryptionKey:
    """A key of the API server's EncryptionConfiguration; ``sha256`` (hex) is of its base64 text."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot of etcd, as ``snapshot.sh`` reports it. Sizes in bytes; hashes SHA-256 in hex.

    ``revision`` is that of etcd itself, which begins at 1. ``keys`` are those alive at ``revision`` and ``prefixes``
    how many of them begin with each first two parts of their names; None when etcd could not tell. ``snapshot_sha256``
    is the hash that etcd appended. ``encryption_keys`` are what the API server needs to read the snapshot's Secrets.
    ``alarms`` are those that were raised, which a snapshot holds, too: NOSPACE, CORRUPT.
    """

    size: int
    snapshot_sha256: str
    revision: int
    etcd: str
    keys: int | None = None
    prefixes: Mapping[str, int] | None = None
    kubernetes: str | None = None
    encryption_keys: tuple[EncryptionKey, ...] = ()
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Record(Snapshot):
    """One backup. Times are UTC with seconds, as in RFC 3339.

    ``sequence`` counts the backups of a folder: their order does not depend on a clock. ``stored_…`` are of the
    encrypted file. ``verified`` is when it last passed verification, ``problem`` what a later one found wrong.
    ``signer`` is the public key that ``signature`` is of (both base64); ``signed``, which is not in the file, whether
    that key is one of the workspace and the signature right.
    """

    name: str
    cluster: str
    sequence: int
    created: str
    stored_size: int
    stored_sha256: str
    recipient: str
    verified: str | None = None
    problem: str | None = None
    signer: str | None = None
    signature: str | None = None
    signed: bool = False

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.created)

    @property
    def minor(self) -> tuple[int, int]:
        """Of the etcd that took the snapshot: the same minor or a newer one can read it."""
        major, minor, *_ = self.etcd.split(".")
        return int(major), int(minor)

    @property
    def sound(self) -> bool:
        """Whether it passed verification, and still did the last time."""
        return self.verified is not None and self.problem is None

    @property
    def state(self) -> str:
        """Why it is not restored by default, "" when it may be."""
        return self.problem or ("" if self.signed else "signed by an unknown key" if self.signature else "unsigned")

    @property
    def file(self) -> str:
        return self.name + SUFFIX

    @property
    def record_file(self) -> str:
        return self.name + RECORD_SUFFIX


def timestamp(moment: datetime) -> str:
    """``moment`` as records have it."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def dump(record: Record) -> str:
    """The file's text, with a checksum over all the rest."""
    content = {"format": FORMAT, **dataclasses.asdict(record)}
    del content["signed"]
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def parse(text: str | bytes, where: str) -> Record:
    """Read what ``dump`` wrote; raises SmallkubeError that names ``where`` when one bit of it has changed."""
    try:
        content: dict[str, Any] = json.loads(text)
        checksum = content.pop("checksum")
        if checksum != _checksum(content):
            raise ValueError("wrong checksum")
        if (found := content.pop("format")) not in (1, FORMAT):
            raise ValueError(f"unknown format {found}")
        record: Record = TypeAdapter(Record).validate_json(json.dumps({**content, "signed": False}))
        sound = record.time.utcoffset() is not None and re.match(r"[0-9]+\.[0-9]+", record.etcd)
        if not sound or not content.keys() <= vars(record).keys():
            raise TypeError("another time, version or field")
        return record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "not a record of a backup"
        raise SmallkubeError(f"damaged: {reason}", where=where) from error


def parse_snapshot(reply: Mapping[str, Any]) -> Snapshot:
    """From the line of ``snapshot.sh``; raises ValueError, KeyError or TypeError when it is not one."""
    counts = reply["prefixes"] and [line.lstrip().partition(" ") for line in reply["prefixes"]]
    keys = [line.partition(" ") for line in reply["encryption_keys"]]
    return Snapshot(
        size=int(reply["size"]),
        snapshot_sha256=_matching(r"[0-9a-f]{64}", reply["sha256"]),
        revision=int(reply["revision"]),
        etcd=_matching(r"[0-9]+(\.[0-9]+)+", reply["etcd"]),
        keys=None if counts is None else sum(int(count) for count, _, _ in counts),
        prefixes=None if counts is None else {prefix: int(count) for count, _, prefix in counts},
        kubernetes=reply["kubernetes"] or None,
        encryption_keys=tuple(EncryptionKey(name, _matching(r"[0-9a-f]{64}", sha256)) for sha256, _, name in keys),
        alarms=tuple(_matching(r"[A-Z]+", alarm) for alarm in reply["alarms"]),
    )


def _matching(pattern: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        raise ValueError(value)
    return value


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
