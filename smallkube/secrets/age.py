"""Encrypting and decrypting with age: in this process (pyrage), by the program where a plugin is needed (``plugins``).

What a file shows without a key is in ``header``; recipients that are SSH host keys are in ``host_keys``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO

import pyrage
from pyrage import ssh, x25519

from smallkube.core.errors import SmallkubeError, UsageError, split_lines
from smallkube.core.process import Sink, Source
from smallkube.core.workspace import IDENTITY, Workspace
from smallkube.inventory import admins
from smallkube.secrets import age_identities, plugins
from smallkube.secrets.age_identities import Identity, PluginIdentity, SshIdentity
from smallkube.secrets.header import Header, parse_header

MASTER_RECIPIENT = "master_key.pub"
"""File in keys/ with the public half of the identity in force, where the inventory names no administrators."""


@dataclass(frozen=True)
class Master:
    """The operator's identities: the first is the one in force, further ones only still decrypt.

    ``where``: the file that they are from.
    """

    identities: tuple[Identity, ...]
    where: str = "keys/master_key"

    @cached_property
    def recipients(self) -> tuple[str, ...]:
        """The public key of each: ``age1…``, or ``ssh-ed25519 BASE64``."""
        return tuple(identity.recipient for identity in self.identities)

    @property
    def recipient(self) -> str:
        """That of the first."""
        return self.recipients[0]

    @property
    def plugins(self) -> tuple[PluginIdentity, ...]:
        """Those that only the program age can use."""
        return tuple(each for each in self.identities if isinstance(each, PluginIdentity))

    def only(self, *recipients: str) -> "Master":
        """The same with nothing but the identities of these recipients."""
        return Master(tuple(each for each in self.identities if each.recipient in recipients), self.where)


def new_identity() -> tuple[str, str]:
    """A new master: the text of its file (as ``age-keygen`` writes it) and its recipient."""
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    return f"# public key: {recipient}\n{identity}\n", recipient


def parse_master(text: str, where: str) -> Master:
    """The identities of an identity file (see ``age_identities.parse``). Raises UsageError that names ``where``."""
    return Master(age_identities.parse(text, where), where)


def read_master(workspace: Workspace) -> Master | None:
    """The identities of the operator (``Workspace.identity_file``); None when keys/master_key is not there.

    Raises UsageError when it is damaged, or SMALLKUBE_IDENTITY names no file.
    """
    path = workspace.identity_file
    text, where = workspace.read_text(path), workspace.relative(path)
    if text is None and path != workspace.master_key:
        raise UsageError("no such file", where=f"{IDENTITY}={path}", hint="name an age identity file or an SSH key")
    return None if text is None else parse_master(text, where)


def require_master(workspace: Workspace, purpose: str) -> Master:
    """The identities, unlocked; raises UsageError when they are not found."""
    master = read_master(workspace)
    if master is None:
        where, hint = workspace.relative(workspace.master_key), "restore it from your offline copy"
        raise UsageError(f"not found, and required {purpose}", where=where, hint=f"{hint}, or set {IDENTITY}")
    for each in master.identities:
        if isinstance(each, SshIdentity):
            each.unlock()
    return master


def read_recipient(workspace: Workspace, master: Master | None) -> str | None:
    """The recipient in force without administrators: master_key.pub, else that of ``master``; None without both.

    Raises UsageError when the two don't belong together.
    """
    path = workspace.keys_dir / MASTER_RECIPIENT
    text, where = workspace.read_text(path), workspace.relative(path)
    if text is None:
        return master.recipient if master else None
    lines = [line.strip() for line in split_lines(text) if line.strip() and not line.startswith("#")]
    try:
        (found,) = map(admins.recipient, lines)
    except ValueError as error:
        raise UsageError("expected exactly one line age1…", where=where) from error
    if master and found not in master.recipients:
        raise UsageError(
            "is not the key that the secrets are encrypted to",
            where=master.where,
            hint=f"restore the identity of {where}; to change the master, put the new identity above the previous one",
        )
    return found


def encrypt(plaintext: bytes, recipients: Sequence[str]) -> bytes:
    """``plaintext`` for ``recipients`` (see ``inventory.admins``); raises UsageError on an unusable one."""
    sink = BytesIO()
    encrypt_stream(BytesIO(plaintext), sink, recipients)
    return sink.getvalue()


def encrypt_stream(source: Source, sink: Sink, recipients: Sequence[str]) -> None:
    """The same of a stream. Raises also SmallkubeError, and pyrage.EncryptError for what the streams raise."""
    if not recipients:
        raise ValueError("a secret without recipients would be lost")
    if any(map(admins.plugin_of, recipients)):
        plugins.encrypt(source, sink, recipients)
    else:
        pyrage.encrypt_io(source, sink, [recipient(text) for text in recipients])


def decrypt(data: bytes, master: Master, where: str) -> bytes:
    """The plaintext of ``data``, its header and payload authenticated; raises SmallkubeError that names ``where``."""
    sink = BytesIO()
    decrypt_stream(BytesIO(data), sink, master, parse_header(data, where), where)
    return sink.getvalue()


def decrypt_stream(source: Source, sink: Sink, master: Master, header: Header, where: str) -> None:
    """The same of a stream that begins with ``header``; what reached ``sink`` before an error counts for nothing."""
    natives = age_identities.natives(master.identities, header)
    try:
        if master.plugins and header.others and not _is_named(master, header):
            plugins.decrypt(source, sink, master.plugins)
        elif natives:
            pyrage.decrypt_io(source, sink, natives)
        else:
            raise refusal(header, master, where)
    except (pyrage.DecryptError, plugins.NoMatch, OSError) as error:
        raise refusal(header, master, where) from error


class NotForMaster(SmallkubeError):
    """The file is sound as far as can be seen, but encrypted to other keys."""


def refusal(header: Header, master: Master, where: str) -> SmallkubeError:
    """Why ``master`` could not decrypt the file with this ``header``: pyrage's errors differ in their text only."""
    if _is_named(master, header):
        return SmallkubeError("damaged: its contents don't pass age's verification", where=where)
    return NotForMaster(f"{master.where} can't open it", where=where)


def _is_named(master: Master, header: Header) -> bool:
    return any(each.is_named(header) for each in master.identities)


@lru_cache(maxsize=1024)
def recipient(text: str) -> ssh.Recipient | x25519.Recipient:
    """What pyrage encrypts to; raises UsageError when ``text`` is no usable recipient."""
    try:
        return x25519.Recipient.from_str(text) if text.startswith("age1") else ssh.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise UsageError(f"not a usable recipient: {text[:40]}…") from error
