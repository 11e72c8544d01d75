"""The header of an age file: what can be known of it without any key.

Format: the age specification (C2SP age.md), version 1. A header read here is not authenticated: only decrypting
verifies its MAC. It finds drift, not forgery.
"""

import base64
import re
from dataclasses import dataclass
from io import BytesIO

from smallkube.core.errors import SmallkubeError

INTRO = b"age-encryption.org/v1\n"
_ARMOR_BEGIN = b"-----BEGIN AGE ENCRYPTED FILE-----"
_ARMOR_END = b"-----END AGE ENCRYPTED FILE-----"
_VCHAR = re.compile(rb"[\x21-\x7e]+")
_CHUNK = 64 * 1024
_TAG = 16
_NONCE = 16


@dataclass(frozen=True)
class Stanza:
    """One recipient's part of the header: its type, its arguments, its decoded body."""

    type: str
    args: tuple[str, ...]
    body: bytes


@dataclass(frozen=True)
class Header:
    """All stanzas in order, and how long the plaintext is (bytes)."""

    stanzas: tuple[Stanza, ...]
    plaintext_length: int

    @property
    def ssh_tags(self) -> tuple[str, ...]:
        """Tags of the ssh-ed25519 recipients, in order."""
        return tuple(item.args[0] for item in self.stanzas if item.type == "ssh-ed25519")

    @property
    def x25519_count(self) -> int:
        """How many native age recipients there are; they are anonymous."""
        return sum(item.type == "X25519" for item in self.stanzas)

    @property
    def others(self) -> tuple[str, ...]:
        """Types of recipients that we never write, without the grease that implementations strew in."""
        known = ("ssh-ed25519", "X25519")
        return tuple(t.type for t in self.stanzas if t.type not in known and not t.type.endswith("-grease"))


def parse_header(data: bytes, where: str, size: int | None = None) -> Header:
    """The header of the age file ``data`` (binary or armored); with ``size`` (bytes), ``data`` is its binary beginning.

    Raises SmallkubeError that names ``where`` when it is no well-formed age file, or the header exceeds ``data``.
    """
    try:
        binary = _dearmor(data) if size is None else data
        return _parse(binary, len(binary) if size is None else size)
    except ValueError as error:
        raise SmallkubeError(f"damaged age file: {error}", where=where) from error


def _parse(data: bytes, size: int) -> Header:
    file = BytesIO(data)
    if file.readline() != INTRO:
        raise ValueError("it does not begin like one" if data else "empty")
    stanzas: list[Stanza] = []
    while not (line := _line(file)).startswith(b"--- "):
        stanzas.append(_stanza(line, file))
    if len(_decode(line[4:], "MAC")) != 32:
        raise ValueError("its MAC is not 32 bytes long")
    if not stanzas:
        raise ValueError("no recipient")
    return Header(tuple(stanzas), _plaintext_length(size - file.tell()))


def _line(file: BytesIO) -> bytes:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise ValueError("cut off inside the header")
    return line[:-1]


def _stanza(line: bytes, file: BytesIO) -> Stanza:
    arrow, *words = line.split(b" ")
    if arrow != b"->" or not words or not all(_VCHAR.fullmatch(word) for word in words):
        raise ValueError("a recipient's line is malformed")
    rows = [_line(file)]
    while len(rows[-1]) == 64:
        rows.append(_line(file))
    if len(rows[-1]) > 64:
        raise ValueError("a recipient's body is malformed")
    kind, *args = (word.decode("ascii") for word in words)
    if len(args) != {"ssh-ed25519": 2, "X25519": 1}.get(kind, len(args)):
        raise ValueError(f"a recipient of type {kind} has {len(args)} arguments")
    return Stanza(kind, tuple(args), _decode(b"".join(rows), "a recipient's body"))


def _decode(text: bytes, what: str) -> bytes:
    """Unpadded canonical base64, as the specification requires."""
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError(f"{what} is not base64") from None
    if base64.b64encode(decoded).rstrip(b"=") != text:
        raise ValueError(f"{what} is not canonical base64")
    return decoded


def _plaintext_length(payload: int) -> int:
    """A nonce, then chunks of 64 KiB, each with its tag; only an empty plaintext has an empty last chunk."""
    chunks, rest = divmod(payload - _NONCE, _CHUNK + _TAG)
    if payload < _NONCE + _TAG or 0 < rest < _TAG or (rest == _TAG and chunks):
        raise ValueError("cut off inside the payload")
    return chunks * _CHUNK + max(rest - _TAG, 0)


def _dearmor(data: bytes) -> bytes:
    text = data.strip()
    if not text.startswith(_ARMOR_BEGIN):
        return data
    if not text.endswith(_ARMOR_END):
        raise ValueError("cut off inside the armor")
    try:
        return base64.b64decode(b"".join(text[len(_ARMOR_BEGIN) : -len(_ARMOR_END)].split()), validate=True)
    except ValueError:
        raise ValueError("the armor is not base64") from None
