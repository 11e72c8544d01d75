"""What is known of one backup: the JSON file beside it, readable without any key."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from smallkube.core.errors import SmallkubeError

FORMAT = 1
SUFFIX = ".db.zst.age"
"""Of a backup: bbolt database with etcd's SHA-256 at its end, zstd (RFC 8878), age."""
RECORD_SUFFIX = ".json"


@dataclass(frozen=True)
class EncryptionKey:
    """A key of the API server's EncryptionConfiguration; ``sha256`` (hex) is of its base64 text."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Record:
    """One backup. Times are UTC with seconds, as in RFC 3339; sizes in bytes; hashes SHA-256 in hex.

    ``sequence`` counts the backups of a folder: their order does not depend on a clock. ``revision`` is that of etcd
    itself, which begins at 1. ``keys`` are those alive at ``revision`` and ``prefixes`` how many of them begin with
    each first two parts of their names; None when etcd could not tell. ``snapshot_sha256`` is the hash that etcd
    appended; ``stored_…`` are of the encrypted file. ``encryption_keys`` are what the API server needs to read the
    snapshot's Secrets. ``verified`` is when it was last found good, ``problem`` what was found wrong since.
    """

    name: str
    cluster: str
    sequence: int
    created: str
    revision: int
    size: int
    snapshot_sha256: str
    stored_size: int
    stored_sha256: str
    etcd: str
    recipient: str
    keys: int | None = None
    prefixes: Mapping[str, int] | None = None
    kubernetes: str | None = None
    encryption_keys: tuple[EncryptionKey, ...] = ()
    verified: str | None = None
    problem: str | None = None

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.created)

    @property
    def sound(self) -> bool:
        """Whether it was proven, and nothing wrong was found since."""
        return self.verified is not None and self.problem is None

    @property
    def file(self) -> str:
        return self.name + SUFFIX


def timestamp(moment: datetime) -> str:
    """``moment`` as records have it."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def dump(record: Record) -> str:
    """The file's text, with a checksum over all the rest."""
    content = {"format": FORMAT, **dataclasses.asdict(record)}
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def parse(text: str | bytes, where: str) -> Record:
    """Read what ``dump`` wrote; raises SmallkubeError that names ``where`` when one bit of it has changed."""
    try:
        content: dict[str, Any] = json.loads(text)
        checksum = content.pop("checksum")
        if checksum != _checksum(content):
            raise ValueError("its checksum is wrong")
        if (found := content.pop("format")) != FORMAT:
            raise ValueError(f"format {found}, and only {FORMAT} is known")
        content["encryption_keys"] = tuple(EncryptionKey(**key) for key in content["encryption_keys"])
        return Record(**content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "not a record of a backup"
        raise SmallkubeError(f"damaged: {reason}", where=where) from error


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
