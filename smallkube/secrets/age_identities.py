"""The private keys that open secrets: age's own, SSH keys, and those of age plugins.

An identity file has one of age or of a plugin a line, or is one OpenSSH private key (openssh/PROTOCOL.key), which may
have a passphrase: it is asked for when a file needs the key.
"""

import base64
import getpass
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import pyrage
from pyrage import ssh, x25519

from smallkube.core.errors import UsageError, split_lines
from smallkube.inventory import admins
from smallkube.secrets.header import Header, Stanza
from smallkube.secrets.host_keys import HostKey

_SSH_BEGIN = "-----BEGIN OPENSSH PRIVATE KEY-----"
_SSH_END = "-----END OPENSSH PRIVATE KEY-----"
_SSH_MAGIC = b"openssh-key-v1\0"
_PLUGIN = re.compile(r"AGE-PLUGIN-([A-Z0-9+._-]+)-1[A-Z0-9]+")
_RECIPIENT = re.compile(r"\bage1[a-z0-9+._-]+")
_EXPECTED = "expected: AGE-SECRET-KEY-1…, AGE-PLUGIN-… or an OpenSSH private key"


@dataclass(frozen=True)
class NativeIdentity:
    """One of age's own."""

    key: x25519.Identity = field(repr=False)

    @cached_property
    def recipient(self) -> str:
        """``age1…``."""
        return str(self.key.to_public())

    def native(self, _: Header) -> x25519.Identity:
        """What pyrage takes."""
        return self.key

    def is_named(self, header: Header) -> bool:
        """Whether a stanza of ``header`` is for this identity, so that a file it can't open is damaged."""
        return any(_wrapped_for(self.key, stanza) for stanza in header.stanzas)


@dataclass(frozen=True)
class SshIdentity:
    """An OpenSSH private key; ``where`` it is from."""

    text: str = field(repr=False)
    public: HostKey
    encrypted: bool
    where: str

    @property
    def recipient(self) -> str:
        """``ssh-ed25519 BASE64``."""
        return str(self.public)

    def native(self, header: Header) -> ssh.Identity | None:
        """What pyrage takes; None when no stanza of ``header`` is for this key. Raises as ``unlock`` does."""
        return self.unlock() if self.is_named(header) else None

    def unlock(self) -> ssh.Identity:
        """Ask for the passphrase, if there is one, once. Raises UsageError without a terminal, or if it is wrong."""
        return _unlocked(self.text, self.encrypted, self.where)

    def is_named(self, header: Header) -> bool:
        return self.public.tag in header.ssh_tags


@dataclass(frozen=True)
class PluginIdentity:
    """A line ``AGE-PLUGIN-NAME-1…``, and the recipient that the comment above it names."""

    line: str = field(repr=False)
    recipient: str

    def native(self, _: Header) -> None:
        """pyrage takes none: the plugin's program opens a file."""

    def is_named(self, _: Header) -> bool:
        """The plugin alone could tell."""
        return False


Identity = NativeIdentity | SshIdentity | PluginIdentity


def parse(text: str, where: str) -> tuple[Identity, ...]:
    """The identities of a file: an OpenSSH private key, or a line each, ``#`` begins a comment line.

    Raises UsageError that names ``where`` and the line, never its content.
    """
    if text.lstrip().startswith(_SSH_BEGIN):
        return (_parse_ssh(text, where),)
    identities: list[Identity] = []
    named = ""
    for number, line in enumerate(map(str.strip, split_lines(text)), 1):
        if line.startswith("#"):
            named = next(iter(_RECIPIENT.findall(line)), named)
        elif line:
            identities.append(_parse_line(line, named, f"{where}:{number}"))
            named = ""
    if not identities:
        raise UsageError("holds no age identity", where=where)
    return tuple(identities)


def _parse_line(line: str, named: str, where: str) -> Identity:
    if plugin := _PLUGIN.fullmatch(line):
        if admins.plugin_of(named) != plugin[1].lower():
            hint = f"write its recipient above it: # recipient: age1{plugin[1].lower()}1…"
            raise UsageError("no comment names the recipient of this plugin's identity", where=where, hint=hint)
        return PluginIdentity(line, named)
    try:
        return NativeIdentity(x25519.Identity.from_str(line))
    except pyrage.IdentityError as error:
        raise UsageError("no age identity, or a damaged one", where=where, hint=_EXPECTED) from error


def _parse_ssh(text: str, where: str) -> SshIdentity:
    """After the magic: cipher, KDF and its options, how many keys, and the public one, which is never encrypted."""
    try:
        data = base64.b64decode("".join(text.partition(_SSH_BEGIN)[2].partition(_SSH_END)[0].split()), validate=True)
        cipher, at = _string(data, len(_SSH_MAGIC))
        for _ in ("KDF", "its options"):
            _, at = _string(data, at)
        wire, _ = _string(data, at + 4)
        if not data.startswith(_SSH_MAGIC):
            raise ValueError("another format")
        admins.recipient(f"ssh-ed25519 {base64.b64encode(wire).decode()}")
    except ValueError as error:
        problem = "not an OpenSSH private key of the type ed25519, or a damaged one"
        raise UsageError(problem, where=where) from error
    return SshIdentity(text, HostKey(wire), cipher != b"none", where)


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    """One of SSH's (RFC 4251, section 5), and where it ends."""
    end = at + 4 + int.from_bytes(data[at : at + 4])
    return data[at + 4 : end], end


@lru_cache(maxsize=8)
def _unlocked(text: str, encrypted: bool, where: str) -> ssh.Identity:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_ssh_private_key,
    )

    plain = text.encode()
    try:
        if encrypted:
            key = load_ssh_private_key(plain, _passphrase(where).encode())
            plain = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return ssh.Identity.from_buffer(plain)
    except (ValueError, TypeError, pyrage.IdentityError) as error:
        problem = "wrong passphrase, or a damaged key" if encrypted else "damaged OpenSSH private key"
        raise UsageError(problem, where=where) from error


def _passphrase(where: str) -> str:
    """From the terminal, whatever standard input is. Raises UsageError without one."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        hint = "run this on a terminal, or name another identity in SMALLKUBE_IDENTITY"
        problem = "the key has a passphrase, and there is no terminal to read it from"
        raise UsageError(problem, where=where, hint=hint) from error
    try:
        return getpass.getpass(f"passphrase of {where}: ")
    except EOFError as error:
        raise UsageError("no passphrase given", where=where) from error


def natives(identities: Sequence[Identity], header: Header) -> list[x25519.Identity | ssh.Identity]:
    """What pyrage may open a file of this ``header`` with."""
    return [native for each in identities if (native := each.native(header)) is not None]


def _wrapped_for(identity: x25519.Identity, stanza: Stanza) -> bool:
    """Whether ``identity`` unwraps the file key in ``stanza`` (C2SP age.md, "The X25519 recipient type")."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if stanza.type != "X25519":
        return False
    private = X25519PrivateKey.from_private_bytes(admins.key_of(str(identity).removeprefix("AGE-SECRET-KEY-1")))
    try:
        share = base64.b64decode(stanza.args[0] + "=")
        secret = private.exchange(X25519PublicKey.from_public_bytes(share))
        salt = share + private.public_key().public_bytes_raw()
        key = HKDF(hashes.SHA256(), 32, salt, b"age-encryption.org/v1/X25519").derive(secret)
        ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
    except (ValueError, InvalidTag):
        return False
    return True
