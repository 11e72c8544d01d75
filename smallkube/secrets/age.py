"""Encrypting and decrypting with age, in this process (pyrage), and the master identity.

The other halves of age's formats stand beside it: ``header`` (what a file shows without a key) and ``ssh_keys``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from smallkube.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from pyrage import ssh, x25519

_IDENTITY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")
_RECIPIENT = re.compile(r"age1[0-9a-z]{58}")


@dataclass(frozen=True)
class Master:
    """The administrator's identities: the first is the one in force, further ones only still decrypt."""

    recipients: tuple[str, ...]
    identities: tuple["x25519.Identity", ...]

    @property
    def recipient(self) -> str:
        """The public key that new secrets are encrypted to, ``age1…``."""
        return self.recipients[0]

    def only(self, recipient: str) -> "Master":
        """The same with nothing but the identity of ``recipient``."""
        position = self.recipients.index(recipient)
        return Master((recipient,), (self.identities[position],))


def new_identity() -> tuple[str, str]:
    """A new master: the text of its file (as ``age-keygen`` writes it) and its recipient."""
    from pyrage import x25519

    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    return f"# public key: {recipient}\n{identity}\n", recipient


def parse_master(text: str, where: str) -> Master:
    """The identities of an age identity file: one a line, ``#`` begins a comment line.

    Raises UsageError that names ``where`` and the line, never its content.
    """
    from pyrage import IdentityError, x25519

    identities = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not _IDENTITY.fullmatch(line.strip()):
            raise UsageError("not an age identity", where=f"{where}:{number}", hint="expected: AGE-SECRET-KEY-1…")
        try:
            identities.append(x25519.Identity.from_str(line.strip()))
        except IdentityError as error:
            raise UsageError("damaged age identity: its checksum is wrong", where=f"{where}:{number}") from error
    if not identities:
        raise UsageError("holds no age identity", where=where)
    return Master(tuple(str(identity.to_public()) for identity in identities), tuple(identities))


def parse_master_recipient(text: str, where: str) -> str:
    """The one ``age1…`` recipient in ``text``; raises UsageError that names ``where``."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1 or not _RECIPIENT.fullmatch(lines[0]):
        raise UsageError("expected exactly one line age1…", where=where)
    recipient(lines[0])
    return lines[0]


def encrypt(plaintext: bytes, recipients: Sequence[str]) -> bytes:
    """``plaintext`` for ``recipients`` (``age1…`` or ``ssh-ed25519 BASE64``); raises UsageError on an unusable one."""
    from pyrage import encrypt as pyrage_encrypt

    if not recipients:
        raise ValueError("a secret without recipients would be lost")
    return bytes(pyrage_encrypt(plaintext, [recipient(text) for text in recipients]))


def decrypt(data: bytes, master: Master, where: str) -> bytes:
    """The plaintext of ``data``, its header and payload authenticated; raises SmallkubeError that names ``where``."""
    from pyrage import DecryptError
    from pyrage import decrypt as pyrage_decrypt

    try:
        return bytes(pyrage_decrypt(data, list(master.identities)))
    except DecryptError as error:
        if "matching" in str(error).lower():
            raise NotForMaster("keys/master_key can't open it", where=where) from error
        raise SmallkubeError("damaged: its contents don't pass age's verification", where=where) from error


class NotForMaster(SmallkubeError):
    """The file is sound as far as can be seen, but encrypted to other keys."""


@lru_cache(maxsize=1024)
def recipient(text: str) -> "ssh.Recipient | x25519.Recipient":
    """What pyrage encrypts to; raises UsageError when ``text`` is no usable recipient."""
    from pyrage import RecipientError, ssh, x25519

    try:
        return x25519.Recipient.from_str(text) if text.startswith("age1") else ssh.Recipient.from_str(text)
    except RecipientError as error:
        raise UsageError(f"not a usable recipient: {text[:40]}…") from error


def usable(recipients: Iterable[str]) -> None:
    """Raise UsageError on the first recipient that age refuses."""
    for text in recipients:
        recipient(text)
