"""Administrators as the inventory names them: a name, and the recipient that secrets are encrypted to.

Three kinds of recipients: age's own ``age1…`` (C2SP age.md, "The X25519 recipient type"), ``ssh-ed25519 BASE64`` and
those of age plugins, ``age1PLUGIN1…`` (C2SP age-plugin.md).
"""

import base64
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PREFIX = re.compile(r"age(?:1([a-z0-9+._-]+))?")
_SSH_WIRE = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
"""How the wire form of such a key begins (RFC 8709, section 4); 32 bytes follow."""
_KINDS = "age1…, ssh-ed25519 AAAA… or the recipient of an age plugin, age1PLUGIN1…"


class Kind(StrEnum):
    """What can open a file that is encrypted to a recipient."""

    X25519 = "age"
    SSH = "SSH"
    PLUGIN = "age plugin"


def kind_of(recipient: str) -> Kind:
    """Of a valid recipient."""
    if recipient.startswith("ssh-"):
        return Kind.SSH
    return Kind.PLUGIN if plugin_of(recipient) else Kind.X25519


def plugin_of(recipient: str) -> str:
    """The name of the plugin: ``age-plugin-NAME`` is its program; "" for another kind of recipient."""
    found = _PREFIX.fullmatch(recipient.rpartition("1")[0])
    return (found[1] or "") if found else ""


def recipient(text: str) -> str:
    """``text`` as a recipient, without the comment of an SSH key. Raises ValueError when it is none that is known."""
    if text.startswith("ssh-"):
        return _ssh(text)
    prefix, _, data = text.rpartition("1")
    found = _PREFIX.fullmatch(prefix)
    if not found:
        raise ValueError(f"not a recipient; expected: {_KINDS}")
    if not _checksum_right(prefix, data) or (not found[1] and len(data) != 58):  # 52 letters for 32 bytes, and 6
        raise ValueError("damaged: the checksum of this recipient is wrong, a letter of it was changed or lost")
    if not found[1] and _is_weak(data):
        raise ValueError("not a usable recipient: nothing can be encrypted to this key")
    return text


def short(recipient: str) -> str:
    """What tells it from others, for tables."""
    return recipient if len(recipient) <= 24 else f"{recipient[:15]}…{recipient[-6:]}"


def _ssh(text: str) -> str:
    kind, _, rest = text.partition(" ")
    if kind != "ssh-ed25519":
        raise ValueError(f"an SSH key of the type {kind}; expected: {_KINDS}")
    encoded = rest.strip().partition(" ")[0]
    try:
        wire = base64.b64decode(encoded, validate=True)
    except ValueError:
        wire = b""
    if not wire.startswith(_SSH_WIRE) or len(wire) != len(_SSH_WIRE) + 32:
        raise ValueError("damaged SSH public key: expected ssh-ed25519 AAAA…, as in the file NAME.pub")
    return f"{kind} {base64.b64encode(wire).decode()}"


def _checksum_right(prefix: str, data: str) -> bool:
    """Bech32's (BIP 173), which age uses without its limit of 90 characters."""
    if len(data) < 6 or not set(data) <= set(_ALPHABET):
        return False
    values = [*(ord(each) >> 5 for each in prefix), 0, *(ord(each) & 31 for each in prefix)]
    check = 1
    for value in (*values, *map(_ALPHABET.index, data)):
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            check ^= generator if top >> bit & 1 else 0
    return check == 1


def key_of(data: str) -> bytes:
    """The 32 bytes in ``data``, what follows the 1 in the bech32 form (BIP 173) of a key; its checksum is ignored."""
    number = 0
    for letter in data[:-6].lower():
        number = number << 5 | _ALPHABET.index(letter)
    return (number >> 4).to_bytes(32)


def _is_weak(data: str) -> bool:
    """Whether an X25519 key is of low order (RFC 7748, section 6.1): every secret shared with it is zero."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key_of(data)))
    except ValueError:
        return True
    return False


def _name(value: str) -> str:
    if re.fullmatch(r"node[0-9]+", value):
        raise ValueError(f"{value} is the name of a node; give the administrator another one")
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$"), AfterValidator(_name)]
Admins = Mapping[Name, Annotated[str, AfterValidator(recipient)]]


def shared(admins: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each name whose recipient another one before it has, with that one."""
    seen: dict[str, str] = {}
    for name, each in admins.items():
        if (other := seen.setdefault(each, name)) != name:
            yield name, other
