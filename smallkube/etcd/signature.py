"""Signatures of records: what is in a backup folder is ours only if its record was signed with a key of the workspace.

Encryption does not tell: the public key in keys/ is enough for it. Backups run without the master key, so each
machine that takes them has an Ed25519 key (RFC 8032) of its own, of which the public half is in keys/.
"""

import base64
import dataclasses
import json
from collections.abc import Collection
from contextlib import suppress

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallkube.core.errors import SmallkubeError, UsageError, split_lines
from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace
from smallkube.etcd.record import Record

KEY = "backup_key"
"""In .smallkube: the private key of this machine, 32 bytes in base64."""
SIGNERS = "backup_signers"
"""In keys/: the public keys that are accepted, a line each; ``#`` begins a comment line."""
_UNSIGNED = {"signed", "signature", "verified", "problem"}
"""What may change after a record was signed."""


def signers(workspace: Workspace) -> frozenset[str]:
    """The public keys (base64) that are accepted: those in keys/, and that of this machine. Raises UsageError."""
    path = workspace.keys_dir / SIGNERS
    lines = [line.strip() for line in split_lines(workspace.read_text(path) or "")]
    found = {line for line in lines if line and not line.startswith("#")}
    for line in found:
        _decode(line, workspace.relative(path))
    own = _own(workspace)
    return frozenset(found | ({public(own)} if own else set()))


def signing_key(workspace: Workspace) -> Ed25519PrivateKey:
    """The key of this machine, made when there is none; its public half is added to keys/ as soon as that is free."""
    key = _own(workspace)
    if key is None:
        key = Ed25519PrivateKey.generate()
        text = base64.b64encode(key.private_bytes_raw()).decode()
        write_file(workspace.state_dir / KEY, f"{text}\n", 0o600)
    text = workspace.read_text(workspace.keys_dir / SIGNERS) or ""
    if public(key) not in text.split():
        from smallkube.secrets import transaction

        with suppress(SmallkubeError), transaction.changing_keys(workspace):
            text = workspace.read_text(workspace.keys_dir / SIGNERS) or ""
            ended = text if not text or text.endswith("\n") else f"{text}\n"
            transaction.commit(workspace, {SIGNERS: f"{ended}{public(key)}\n".encode()})
    return key


def public(key: Ed25519PrivateKey) -> str:
    """The public half, 32 bytes in base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(record: Record, key: Ed25519PrivateKey) -> Record:
    """``record`` with a signature of all that does not change later."""
    record = dataclasses.replace(record, signer=public(key), signed=True)
    return dataclasses.replace(record, signature=base64.b64encode(key.sign(_content(record))).decode())


def is_signed(record: Record, accepted: Collection[str]) -> bool:
    """Whether an ``accepted`` public key has signed ``record``; raises ValueError when its signature does not match."""
    if record.signature is None or record.signer not in accepted:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(_decode(record.signer or "", "signer"))
        key.verify(base64.b64decode(record.signature, validate=True), _content(record))
    except (InvalidSignature, ValueError) as error:
        raise ValueError("its signature does not match") from error
    return True


def _content(record: Record) -> bytes:
    """What is signed. Without what is None or empty: a field that a later version adds does not invalidate it."""
    content = {name: value for name, value in dataclasses.asdict(record).items() if value not in (None, ())}
    signed = {name: value for name, value in content.items() if name not in _UNSIGNED}
    return b"smallkube backup\n" + json.dumps(signed, sort_keys=True).encode()


def _own(workspace: Workspace) -> Ed25519PrivateKey | None:
    path = workspace.state_dir / KEY
    text = workspace.read_text(path)
    if text is None:
        return None
    return Ed25519PrivateKey.from_private_bytes(_decode(text.strip(), workspace.relative(path)))


def _decode(text: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    if len(data) != 32:
        raise UsageError("expected an Ed25519 key: 32 bytes in base64", where=where, hint="restore it, or remove it")
    return data
