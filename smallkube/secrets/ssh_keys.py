"""SSH host public keys: strict parsing, fingerprints, and the tag under which age knows them.

Wire form: RFC 4253 §6.6 and RFC 8709 §4; fingerprint: as ``ssh-keygen -lf`` prints it.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smallkube.core.errors import UsageError

ED25519 = "ssh-ed25519"
_WIRE_PREFIX = len(ED25519).to_bytes(4, "big") + ED25519.encode() + (32).to_bytes(4, "big")


@dataclass(frozen=True)
class HostKey:
    """An ssh-ed25519 public key; two keys are equal when their key material is, whatever the comment."""

    wire: bytes

    def __str__(self) -> str:
        """``ssh-ed25519 BASE64``: the form that age takes as a recipient."""
        return f"{ED25519} {base64.b64encode(self.wire).decode()}"

    @property
    def fingerprint(self) -> str:
        """``SHA256:…``, unpadded base64."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.wire).digest()).decode().rstrip("=")

    @cached_property
    def tag(self) -> str:
        """What an age header calls this key: the first 4 bytes of its SHA-256, unpadded base64."""
        return base64.b64encode(hashlib.sha256(self.wire).digest()[:4]).decode().rstrip("=")


def parse_host_key(text: str, where: str) -> HostKey:
    """The key in ``text``: exactly one line, ``ssh-ed25519 BASE64 [comment]``.

    Raises UsageError that names ``where``. Other key types are refused: age can encrypt to ed25519 and RSA only, and
    agenix reads the host's ed25519 key.
    """
    lines = text.strip("\n").split("\n")
    if len(lines) != 1:
        raise UsageError(f"{len(lines)} lines where one SSH public key belongs", where=where)
    fields = lines[0].split()
    if len(fields) < 2:
        raise UsageError("not an SSH public key", where=where, hint="expected: ssh-ed25519 AAAA… [comment]")
    if fields[0] != ED25519:
        raise UsageError(
            "a host key of another type than ssh-ed25519", where=where, hint="take /etc/ssh/ssh_host_ed25519_key.pub"
        )
    try:
        wire = base64.b64decode(fields[1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("the SSH public key is not base64", where=where) from error
    if not wire.startswith(_WIRE_PREFIX) or len(wire) != len(_WIRE_PREFIX) + 32:
        raise UsageError("damaged SSH public key: not the wire form of an ed25519 key", where=where)
    return HostKey(wire)


def read_host_key(path: Path, where: str) -> HostKey:
    """The key in the file at ``path``; raises UsageError when it is missing, not text or not one key."""
    try:
        return parse_host_key(path.read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't be read: {getattr(error, 'strerror', 'not text')}", where=where) from error
