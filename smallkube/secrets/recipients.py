"""Which recipients an encrypted file has, compared with the policy; and keys/recipients.json, which records them.

Three kinds of proof, weakest last: *decrypted* (the operator's identity opened it, which authenticates the header),
*recorded* (the very bytes are those that recipients.json speaks of), *header* (names of the hosts and of
administrators with SSH keys; other recipients are anonymous, and only counted). recipients.json is not secret, and a
record counts only for the very bytes it names.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from smallkube.core.errors import SmallkubeError, listed
from smallkube.core.workspace import Workspace
from smallkube.inventory.admins import Kind as RecipientKind
from smallkube.secrets import age
from smallkube.secrets.header import Header, parse_header
from smallkube.secrets.keyring import MASTER, Keyring
from smallkube.secrets.policy import Kind, Secret

WIREGUARD_LENGTHS = (44, 45)
"""Plaintext length of a WireGuard key (bytes), without and with a line break; known from the header alone."""
_RULES_HEAD = """\
# agenix's rules, written by `inv keys.generate` from inventory.yaml and keys/hosts/. Changes made here are lost.
"""


@dataclass(frozen=True)
class Record:
    """One file: SHA-256 of its bytes (hex), and its recipients in the order of the policy."""

    sha256: str
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class RecordsFile:
    """recipients.json: a record by the name of its file."""

    files: dict[str, Record]


def record(data: bytes, recipients: Iterable[str]) -> Record:
    """The record of ``data``, just encrypted to ``recipients``."""
    return Record(digest(data), tuple(recipients))


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def read_records(workspace: Workspace) -> dict[str, Record]:
    """The records by file name; empty when there is no such file. Raises UsageError when it is damaged."""
    hint = "restore it from git, or remove it (proofs then fall back to the files' headers)"
    found = workspace.read_json(workspace.recipients_file, RecordsFile, hint)
    return found.files if found else {}


def render_records(records: Mapping[str, Record]) -> str:
    """The file's text: sorted, one record a line, so that merges in git stay readable."""
    rows = [
        f"    {json.dumps(name)}: {json.dumps({'sha256': row.sha256, 'recipients': list(row.recipients)})}"
        for name, row in sorted(records.items())
    ]
    return '{\n  "version": 1,\n  "files": {\n' + ",\n".join(rows) + "\n  }\n}\n"


def render_rules(secrets: Iterable[Secret], keyring: Keyring) -> str:
    """keys/secrets.nix, for those of ``secrets`` whose readers' host keys are known.

    These are agenix rules (file name → who may read it), so that the agenix CLI works on the same files.

    Everything in it is base64, bech32, or a name from the policy or the inventory: nothing needs escaping in Nix.
    """
    rows = [secret for secret in secrets if not keyring.unknown(secret)]
    used = {node for secret in rows for node in secret.readers}
    lines = [_RULES_HEAD + "let"]
    if keyring.listed:
        own = [f'    "{each}" # {name}' for name, each in keyring.admins.items()]
        lines += ["  admins = [", *own, "  ];"]
    else:
        lines.append(f'  master = "{keyring.admins[MASTER]}";')
    lines += [f'  {node} = "{key}";' for node, key in keyring.hosts.items() if node in used]
    lines += ["in", "{"]
    for row in rows:
        some = f"admins ++ [ {' '.join(row.readers)} ]" if row.readers else "admins"
        keys = some if keyring.listed else f"[ {' '.join((MASTER, *row.readers))} ]"
        lines.append(f'  "{row.file}".publicKeys = {keys};')
    return "\n".join([*lines, "}", ""])


class Proof(StrEnum):
    """What a statement about a file rests on."""

    DECRYPTED = "decrypted"
    RECORDED = "recorded"
    HEADER = "header"
    NONE = "none"


class State(StrEnum):
    """What is the matter with a file; decides what fixes it."""

    GOOD = "ok"
    MISSING = "missing"
    WRONG_SET = "wrong recipients"
    DAMAGED = "damaged"
    UNKNOWN = "not checkable"


@dataclass(frozen=True)
class Finding:
    """The state of one secret's file, what that rests on, the faults in words; the plaintext when it was decrypted."""

    secret: Secret
    state: State
    proof: Proof
    faults: tuple[str, ...] = ()
    plaintext: bytes | None = field(default=None, repr=False)


def examine(
    secret: Secret, data: bytes | None, keyring: Keyring, recorded: Record | None, master: age.Master | None
) -> Finding:
    """Compare the bytes of ``secret``'s file (None: there is none) with the policy, as far as can be known.

    ``master``: the operator's identities that are an administrator's (``Keyring.own``), None to do without.
    """
    if data is None:
        return Finding(secret, State.MISSING, Proof.NONE, ("missing",))
    try:
        header = parse_header(data, secret.file)
    except SmallkubeError as error:
        return Finding(secret, State.DAMAGED, Proof.HEADER, (error.message,))
    if unknown := keyring.unknown(secret):
        return Finding(secret, State.UNKNOWN, Proof.NONE, (f"no host key of {listed(unknown)}",))
    faults = _header_faults(secret, header, keyring)
    proof = Proof.HEADER
    if recorded and recorded.sha256 == digest(data):
        proof = Proof.RECORDED
        faults = _differences(keyring.recipients(secret), recorded.recipients, keyring) or faults
    if master:
        if proof is Proof.HEADER and (others := _unverified(keyring, master)):
            faults = [*faults, f"whether {listed(others)} can read it is not recorded"]
        return _decrypted(secret, data, keyring.named(master), master, faults)
    state = State.WRONG_SET if faults else State.GOOD
    if not faults and (fault := _length_fault(secret, header)):
        state, faults = State.DAMAGED, [fault]
    return Finding(secret, state, proof, tuple(faults))


def readable(secret: Secret, data: bytes, keyring: Keyring, recorded: Record | None) -> dict[str, bool | None]:
    """Administrator → whether they can read this file of ``secret``, by record, else by header; None: unknown."""
    if recorded and recorded.sha256 == digest(data):
        return {name: each in recorded.recipients for name, each in keyring.admins.items()}
    try:
        header = parse_header(data, secret.file)
    except SmallkubeError:
        return dict.fromkeys(keyring.admins)
    found = {keyring.names.get(tag) for tag in header.ssh_tags}
    counts = {RecipientKind.X25519: header.x25519_count, RecipientKind.PLUGIN: len(header.others)}
    absent = {name for kind, names in keyring.anonymous.items() for name in names if not counts[kind]}
    anonymous = {name for names in keyring.anonymous.values() for name in names}
    return {name: None if name in anonymous - absent else name in found for name in keyring.admins}


def _unverified(keyring: Keyring, master: age.Master) -> list[str]:
    """Administrators whom neither a header names nor a decryption with ``master`` verifies."""
    own = keyring.named(master)
    return [name for names in keyring.anonymous.values() for name in names if name not in own]


def _decrypted(secret: Secret, data: bytes, names: Sequence[str], master: age.Master, faults: Sequence[str]) -> Finding:
    from smallkube.secrets import kinds

    try:
        plaintext = age.decrypt(data, master, secret.file)
        kinds.validate(secret.kind, plaintext, secret.file)
    except age.NotForMaster:
        fault = f"{'the master' if MASTER in names else listed(names)} can't read it"
        return Finding(secret, State.WRONG_SET, Proof.DECRYPTED, tuple(dict.fromkeys((fault, *faults))))
    except SmallkubeError as error:
        return Finding(secret, State.DAMAGED, Proof.DECRYPTED, (error.message,))
    return Finding(secret, State.WRONG_SET if faults else State.GOOD, Proof.DECRYPTED, tuple(faults), plaintext)


def _header_faults(secret: Secret, header: Header, keyring: Keyring) -> list[str]:
    faults = _differences(keyring.tags(secret), header.ssh_tags, keyring)
    native, plugins = keyring.anonymous[RecipientKind.X25519], keyring.anonymous[RecipientKind.PLUGIN]
    if header.x25519_count != len(native):
        wanted = f"those of {listed(native)}" if keyring.listed else "the master alone"
        faults.append(f"it has {header.x25519_count} native recipients instead of {wanted if native else 'none'}")
    if header.others and not plugins:
        faults.append(f"it has recipients of type {listed(header.others)}")
    elif len(header.others) > len(plugins) or (plugins and not header.others):  # a plugin may put several into one
        faults.append(f"it has {len(header.others)} recipients of age plugins instead of those of {listed(plugins)}")
    return faults


def _differences(wanted: Iterable[str], found: Iterable[str], keyring: Keyring) -> list[str]:
    """In words, between recipients, or the tags of some."""
    should, has = Counter(wanted), Counter(found)
    faults = []
    if missing := [keyring.names[each] for each in should - has]:
        faults.append(f"{listed(missing)} can't read it")
    if surplus := [keyring.names.get(each, f"an unknown key ({each})") for each in has - should]:
        faults.append(f"{listed(surplus)} can read it and must not")
    return faults


def _length_fault(secret: Secret, header: Header) -> str | None:
    if header.plaintext_length == 0:
        return "it holds nothing"
    if secret.kind is Kind.WIREGUARD and header.plaintext_length not in WIREGUARD_LENGTHS:
        return f"it holds {header.plaintext_length} bytes, which no WireGuard key has"
    return None
