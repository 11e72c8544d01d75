"""What ``snapshot.sh`` says of the snapshot that it sends."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError
from smallkube.etcd.record import EncryptionKey

END = b"\n\n"
MOST = 1 << 20
"""Bytes that they may take."""


@dataclass(frozen=True)
class Facts:
    """See ``record.Record``."""

    size: int
    sha256: str
    revision: int
    etcd: str
    keys: int | None
    prefixes: Mapping[str, int] | None
    kubernetes: str | None
    encryption_keys: tuple[EncryptionKey, ...]


def parse(text: str) -> Facts:
    """Raises SmallkubeError when it is not what the script says."""
    pairs = [(key, value) for key, _, value in (line.partition("=") for line in text.splitlines())]
    reply = dict(pairs)
    try:
        counted = "keys" in reply
        return Facts(
            size=int(reply["size"]),
            sha256=_matching(r"[0-9a-f]{64}", reply["sha256"]),
            revision=int(reply["revision"]),
            etcd=_matching(r"[0-9]+(\.[0-9]+)+", reply["etcd"]),
            keys=int(reply["keys"]) if counted else None,
            prefixes=dict(_counted(value) for key, value in pairs if key == "prefix") if counted else None,
            kubernetes=reply.get("kubernetes"),
            encryption_keys=tuple(_key(value) for key, value in pairs if key == "encryption_key"),
        )
    except (KeyError, ValueError) as error:
        raise SmallkubeError(f"the machine's answer can't be understood: {text[:200]!r}") from error


def _matching(pattern: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        raise ValueError(value)
    return value


def _counted(value: str) -> tuple[str, int]:
    count, _, prefix = value.partition(" ")
    return prefix, int(count)


def _key(value: str) -> EncryptionKey:
    sha256, _, name = value.partition(" ")
    return EncryptionKey(name, _matching(r"[0-9a-f]{64}", sha256))
