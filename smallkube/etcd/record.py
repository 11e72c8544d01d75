"""The record of one backup: a JSON file in the same folder, readable without any key."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from smallkube.core.errors import SmallkubeError

FORMAT = 2
"""What is written; 1, which has neither alarms nor a signature, is read, too."""
SUFFIX = ".db.zst.age"
"""Of a backup: bbolt database with etcd's SHA-256 at its end, zstd (RFC 8878), age."""
RECORD_SUFFIX = ".json"
RECORD_LIMIT = 1 << 20
"""Bytes: what is longer is no record."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class EncryptionKey:
    """A key of the API server's EncryptionConfiguration; ``sha256`` (hex) is of its base64 text."""

    name: str
    sha256: Sha256


@dataclass(frozen=True)
class Announced:
    """What ``snapshot.sh`` reports of a snapshot that it begins to send: its size in bytes."""

    size: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot of etcd, as ``snapshot.sh`` reports it. Sizes in bytes; hashes SHA-256 in hex.

    ``revision`` is that of etcd itself, which begins at 1. ``keys`` are those alive at ``revision`` and ``prefixes``
    how many of them begin with each first two parts of their names; None when etcd could not tell. ``snapshot_sha256``
    is the hash that etcd appended. ``encryption_keys`` are what the API server needs to read the snapshot's Secrets.
    ``alarms`` are those that were raised, which a snapshot holds, too: NOSPACE, CORRUPT.
    """

    size: int
    snapshot_sha256: Sha256
    revision: int
    etcd: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)+$")]
    keys: int | None = None
    prefixes: Mapping[str, int] | None = None
    kubernetes: str | None = None
    encryption_keys: tuple[EncryptionKey, ...] = ()
    alarms: tuple[Annotated[str, Field(pattern="^[A-Z]+$")], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Record(Snapshot):
    """One backup. Times are UTC with seconds, as in RFC 3339.

    ``sequence`` counts the backups of a folder: their order does not depend on a clock. ``stored_…`` are of the
    encrypted file; it is encrypted to ``recipient`` and ``further_recipients``, the administrators' of then.
    ``verified`` is when it last passed verification, ``problem`` what a later one found wrong.
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
    further_recipients: tuple[str, ...] = ()
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
    def recipients(self) -> tuple[str, ...]:
        return (self.recipient, *self.further_recipients)

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
    if not record.further_recipients:  # earlier versions know no such field
        del content["further_recipients"]
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
        if record.time.utcoffset() is None or not content.keys() <= vars(record).keys():
            raise TypeError("another time or field")
        return record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "not a record of a backup"
        raise SmallkubeError(f"damaged: {reason}", where=where) from error


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
