"""Encrypting and decrypting with age, in this process (pyrage), and the master identity.

What a file shows without a key is in ``header``; recipients that are SSH host keys are in ``host_keys``.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyrage
from pyrage import ssh, x25519

from smallkube.core.errors import SmallkubeError, UsageError, split_lines
from smallkube.core.workspace import Workspace
from smallkube.secrets.header import Header, Stanza, parse_header

MASTER_RECIPIENT = "master_key.pub"
"""File in keys/ with the public half of the identity in force."""

_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


@dataclass(frozen=True)
class Master:
    """The administrator's identities: the first is the one in force, further ones only still decrypt."""

    identities: tuple[x25519.Identity, ...]

    @cached_property
    def recipients(self) -> tuple[str, ...]:
        """The public key of each, ``age1…``."""
        return tuple(str(identity.to_public()) for identity in self.identities)

    @property
    def recipient(self) -> str:
        """The one that new secrets are encrypted to."""
        return self.recipients[0]

    def only(self, recipient: str) -> "Master":
        """The same with nothing but the identity of ``recipient``."""
        return Master((self.identities[self.recipients.index(recipient)],))


def new_identity() -> tuple[str, str]:
    """A new master: the text of its file (as ``age-keygen`` writes it) and its recipient."""
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    return f"# public key: {recipient}\n{identity}\n", recipient


def parse_master(text: str, where: str) -> Master:
    """The identities of an age identity file: one a line, ``#`` begins a comment line.

    Raises UsageError that names ``where`` and the line, never its content.
    """
    identities = []
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            identities.append(x25519.Identity.from_str(line.strip()))
        except pyrage.IdentityError as error:
            hint = "expected: AGE-SECRET-KEY-1…"
            raise UsageError("no age identity, or a damaged one", where=f"{where}:{number}", hint=hint) from error
    if not identities:
        raise UsageError("holds no age identity", where=where)
    return Master(tuple(identities))


def read_master(workspace: Workspace) -> Master | None:
    """The identities in keys/master_key; None when there is no such file. Raises UsageError when it is damaged."""
    text = workspace.read_text(workspace.master_key)
    return None if text is None else parse_master(text, workspace.relative(workspace.master_key))


def require_master(workspace: Workspace, purpose: str) -> Master:
    """The master identity; raises UsageError when it is not found."""
    master = read_master(workspace)
    if master is None:
        where, hint = workspace.relative(workspace.master_key), "restore it from your offline copy"
        raise UsageError(f"not found, and required {purpose}", where=where, hint=hint)
    return master


def read_recipient(workspace: Workspace, master: Master | None) -> str | None:
    """The recipient in force: master_key.pub, else that of ``master``; None when there is neither.

    Raises UsageError when the two don't belong together.
    """
    path = workspace.keys_dir / MASTER_RECIPIENT
    text, where = workspace.read_text(path), workspace.relative(path)
    if text is None:
        return master.recipient if master else None
    lines = [line.strip() for line in split_lines(text) if line.strip() and not line.startswith("#")]
    if len(lines) != 1 or not lines[0].startswith("age1"):
        raise UsageError("expected exactly one line age1…", where=where)
    found = str(recipient(lines[0]))
    if master and found not in master.recipients:
        raise UsageError(
            "is not the key that the secrets are encrypted to",
            where=workspace.relative(workspace.master_key),
            hint=f"restore the identity of {where}; to change the master, put the new identity above the previous one",
        )
    return found


def encrypt(plaintext: bytes, recipients: Sequence[str]) -> bytes:
    """``plaintext`` for ``recipients`` (``age1…`` or ``ssh-ed25519 BASE64``); raises UsageError on an unusable one."""
    if not recipients:
        raise ValueError("a secret without recipients would be lost")
    return bytes(pyrage.encrypt(plaintext, [recipient(text) for text in recipients]))


def decrypt(data: bytes, master: Master, where: str) -> bytes:
    """The plaintext of ``data``, its header and payload authenticated; raises SmallkubeError that names ``where``."""
    try:
        return bytes(pyrage.decrypt(data, list(master.identities)))
    except pyrage.DecryptError as error:
        raise refusal(parse_header(data, where), master, where) from error


class NotForMaster(SmallkubeError):
    """The file is sound as far as can be seen, but encrypted to other keys."""


def refusal(header: Header, master: Master, where: str) -> SmallkubeError:
    """Why ``master`` could not decrypt the file with this ``header``: pyrage's errors differ in their text only."""
    if any(_wrapped_for(identity, stanza) for identity in master.identities for stanza in header.stanzas):
        return SmallkubeError("damaged: its contents don't pass age's verification", where=where)
    return NotForMaster("keys/master_key can't open it", where=where)


def _wrapped_for(identity: x25519.Identity, stanza: Stanza) -> bool:
    """Whether ``identity`` unwraps the file key in ``stanza`` (C2SP age.md, "The X25519 recipient type")."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if stanza.type != "X25519":
        return False
    private = X25519PrivateKey.from_private_bytes(_secret(identity))
    try:
        share = base64.b64decode(stanza.args[0] + "=")
        secret = private.exchange(X25519PublicKey.from_public_bytes(share))
        salt = share + private.public_key().public_bytes_raw()
        key = HKDF(hashes.SHA256(), 32, salt, b"age-encryption.org/v1/X25519").derive(secret)
        ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
    except (ValueError, InvalidTag):
        return False
    return True


def _secret(identity: x25519.Identity) -> bytes:
    """The key in ``AGE-SECRET-KEY-1…``, bech32 (BIP 173) whose checksum pyrage has verified."""
    number = 0
    for letter in str(identity).removeprefix("AGE-SECRET-KEY-1")[:-6].lower():
        number = number << 5 | _BECH32.index(letter)
    return (number >> 4).to_bytes(32)


@lru_cache(maxsize=1024)
def recipient(text: str) -> ssh.Recipient | x25519.Recipient:
    """What pyrage encrypts to; raises UsageError when ``text`` is no usable recipient."""
    try:
        return x25519.Recipient.from_str(text) if text.startswith("age1") else ssh.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise UsageError(f"not a usable recipient: {text[:40]}…") from error
