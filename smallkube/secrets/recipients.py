"""Which recipients an encrypted file has, compared with the policy; and keys/recipients.json, which records them.

Three kinds of proof, weakest last: *decrypted* (the master opened it, which authenticates the header), *recorded* (the
very bytes are those that recipients.json speaks of), *header* (names of the hosts; an X25519 recipient is anonymous).
recipients.json is not secret, and a record counts only for the very bytes it names.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from smallkube.core.errors import SmallkubeError, UsageError, listed
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age
from smallkube.secrets.header import Header, parse_header
from smallkube.secrets.host_keys import HostKey, load_hosts
from smallkube.secrets.policy import Kind, Secret

WIREGUARD_LENGTHS = (44, 45)
"""Plaintext length of a WireGuard key (bytes), without and with a line break; known from the header alone."""
_RULES_HEAD = """\
# agenix's rules, written by `inv keys.generate` from inventory.yaml and keys/hosts/. Changes made here are lost.
"""


@dataclass(frozen=True)
class Keyring:
    """``master`` is the recipient in force (``age1…``); ``hosts`` has the nodes whose host key is known."""

    master: str
    hosts: Mapping[str, HostKey]

    def recipients(self, secret: Secret) -> tuple[str, ...]:
        """Whom ``secret`` is encrypted to: the master first. Raises KeyError when a reader's key is not known."""
        return (self.master, *(str(self.hosts[node]) for node in secret.readers))

    def unknown(self, secret: Secret) -> list[str]:
        """Those of its readers whose host keys are not known."""
        return [node for node in secret.readers if node not in self.hosts]

    @cached_property
    def names(self) -> dict[str, str]:
        """What a person calls a recipient, and the tag that a host key has in age headers."""
        hosts = {form: node for node, key in self.hosts.items() for form in (key.tag, str(key))}
        return {**hosts, self.master: "master"}


def load_keyring(cluster: Cluster, master: age.Master | None = None) -> Keyring:
    """What new secrets are encrypted to. Raises UsageError where there is no master's public key yet."""
    recipient = age.read_recipient(cluster.workspace, master or age.read_master(cluster.workspace))
    if recipient is None:
        where = cluster.workspace.relative(cluster.workspace.keys_dir)
        raise UsageError("no secrets yet", where=where, hint="run `inv keys.generate`")
    return Keyring(recipient, load_hosts(cluster))


def require_host_keys(workspace: Workspace, keyring: Keyring, wanted: Iterable[Secret]) -> None:
    """Raise UsageError that names every node whose host key is needed for ``wanted`` and not found."""
    missing = list(dict.fromkeys(node for row in wanted for node in keyring.unknown(row)))
    if missing:
        flags = " ".join(f"--node {node}" for node in missing[:10]) if len(missing) <= 10 else ""
        raise UsageError(
            f"no SSH host key of {listed(missing)}",
            where=workspace.relative(workspace.hosts_keys_dir),
            hint=f"run `{f'inv keys.scan {flags}'.strip()}`",
        )


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

    Everything quoted in it is base64, ``age1…`` or a name from the policy, so nothing needs escaping in Nix.
    """
    rows = [secret for secret in secrets if not keyring.unknown(secret)]
    used = {node for secret in rows for node in secret.readers}
    lines = [_RULES_HEAD + "let", f'  master = "{keyring.master}";']
    lines += [f'  {node} = "{key}";' for node, key in keyring.hosts.items() if node in used]
    lines += ["in", "{"]
    lines += [f'  "{row.file}".publicKeys = [ {" ".join(("master", *row.readers))} ];' for row in rows]
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

    ``master``: the identity of ``keyring.master`` alone, None to do without.
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
        faults = faults or _differences(keyring.recipients(secret), recorded.recipients, keyring)
    if master:
        return _decrypted(secret, data, master, faults)
    state = State.WRONG_SET if faults else State.GOOD
    if not faults and (fault := _length_fault(secret, header)):
        state, faults = State.DAMAGED, [fault]
    return Finding(secret, state, proof, tuple(faults))


def _decrypted(secret: Secret, data: bytes, master: age.Master, faults: list[str]) -> Finding:
    from smallkube.secrets import kinds

    try:
        plaintext = age.decrypt(data, master, secret.file)
        kinds.validate(secret.kind, plaintext, secret.file)
    except age.NotForMaster:
        return Finding(secret, State.WRONG_SET, Proof.DECRYPTED, ("the master can't read it", *faults))
    except SmallkubeError as error:
        return Finding(secret, State.DAMAGED, Proof.DECRYPTED, (error.message,))
    return Finding(secret, State.WRONG_SET if faults else State.GOOD, Proof.DECRYPTED, tuple(faults), plaintext)


def _header_faults(secret: Secret, header: Header, keyring: Keyring) -> list[str]:
    faults = _differences([keyring.hosts[node].tag for node in secret.readers], header.ssh_tags, keyring)
    if header.x25519_count != 1:
        faults.append(f"it has {header.x25519_count} native recipients instead of the master alone")
    if header.others:
        faults.append(f"it has recipients of type {listed(header.others)}")
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
