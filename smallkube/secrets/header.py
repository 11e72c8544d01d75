"""The header of an age file: what can be known of it without any key.

Format: the age specification (C2SP age.md), version 1. A header read here is not authenticated: only decrypting
verifies its MAC. It finds drift, not forgery.
"""

import base64
import binascii
import re
from dataclasses import dataclass

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


def parse_header(data: bytes, where: str) -> Header:
    """The header of the age file ``data`` (binary or armored).

    Raises SmallkubeError that names ``where`` when it is not a whole, well-formed age file.
    """
    try:
        binary = _dearmor(data)
        return _parse(binary, len(binary))
    except (ValueError, binascii.Error) as error:
        raise SmallkubeError(f"damaged age file: {error}", where=where) from error


def parse_beginning(data: bytes, size: int, where: str) -> Header:
    """The header of a binary age file of ``size`` bytes that begins with ``data``.

    Raises SmallkubeError that names ``where``, also when the header does not end within ``data``.
    """
    try:
        return _parse(data, size)
    except (ValueError, binascii.Error) as error:
        raise SmallkubeError(f"damaged age file: {error}", where=where) from error


def _parse(data: bytes, size: int) -> Header:
    if not data.startswith(INTRO):
        raise ValueError("empty" if not data else "it does not begin like one")
    position = len(INTRO)
    stanzas: list[Stanza] = []
    while True:
        line, position = _line(data, position)
        if line.startswith(b"--- "):
            _decode(line[4:], 32, "MAC")
            break
        stanza, position = _stanza(line, data, position)
        stanzas.append(stanza)
    if not stanzas:
        raise ValueError("no recipient")
    return Header(tuple(stanzas), _plaintext_length(size - position))


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    if end < 0:
        raise ValueError("cut off inside the header")
    return data[position:end], end + 1


def _stanza(line: bytes, data: bytes, position: int) -> tuple[Stanza, int]:
    if not line.startswith(b"-> "):
        raise ValueError("a recipient's line is malformed")
    words = line[3:].split(b" ")
    if not all(_VCHAR.fullmatch(word) for word in words):
        raise ValueError("a recipient's line is malformed")
    encoded = bytearray()
    while True:
        row, position = _line(data, position)
        if len(row) > 64:
            raise ValueError("a recipient's body is malformed")
        encoded += row
        if len(row) < 64:
            break
    kind, *args = (word.decode("ascii") for word in words)
    if len(args) != {"ssh-ed25519": 2, "X25519": 1}.get(kind, len(args)):
        raise ValueError(f"a recipient of type {kind} has {len(args)} arguments")
    return Stanza(kind, tuple(args), _decode(bytes(encoded), None, "a recipient's body")), position


def _decode(text: bytes, length: int | None, what: str) -> bytes:
    """Unpadded canonical base64, as the specification requires."""
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is not base64") from None
    if base64.b64encode(decoded).rstrip(b"=") != text or length not in (None, len(decoded)):
        raise ValueError(f"{what} is not canonical base64 of the right length")
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
    except (binascii.Error, ValueError):
        raise ValueError("the armor is not base64") from None
