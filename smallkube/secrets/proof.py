"""Whom an encrypted file is encrypted to, against whom it should be: the proof behind checks and re-encryption.

Three kinds, weakest last: *decrypted* (the master opened it, which authenticates the header), *recorded* (the very
bytes are those that keys/recipients.json speaks of), *header* (names of the hosts; an X25519 recipient is anonymous).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from smallkube.core.errors import SmallkubeError
from smallkube.secrets import age
from smallkube.secrets.header import Header, parse_header
from smallkube.secrets.keyring import Keyring, listed
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.recipients_file import Record, digest

WIREGUARD_LENGTHS = (44, 45)
"""Plaintext length of a WireGuard key (bytes), without and with a line break; known from the header alone."""


class Proof(StrEnum):
    """What a statement about a file rests on."""

    DECRYPTED = "decrypted"
    RECORDED = "recorded"
    HEADER = "header"
    NONE = "none"


class State(StrEnum):
    """What is the matter with a file; decides what mends it."""

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
    plaintext: bytes | None = None

    def __repr__(self) -> str:
        return f"Finding({self.secret.name}, {self.state}, {self.proof}, {self.faults})"


def examine(
    secret: Secret, data: bytes | None, keyring: Keyring, recorded: Record | None, master: age.Master | None
) -> Finding:
    """Compare the bytes of ``secret``'s file (None: there is none) with the policy, as well as can be done here.

    ``master``: the identity of ``keyring.master`` alone, or None where it is not here.
    """
    if data is None:
        return Finding(secret, State.MISSING, Proof.NONE, ("missing",))
    try:
        header = parse_header(data, secret.file)
    except SmallkubeError as error:
        return Finding(secret, State.DAMAGED, Proof.HEADER, (error.message,))
    if not keyring.knows(secret):
        unknown = [node for node in secret.readers if node not in keyring.hosts]
        return Finding(secret, State.UNKNOWN, Proof.NONE, (f"no host key of {listed(unknown)}",))
    faults = _header_faults(secret, header, keyring)
    proof = Proof.HEADER
    if recorded and recorded.sha256 == digest(data):
        proof = Proof.RECORDED
        faults = faults or _recorded_faults(secret, recorded, keyring)
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
    by_tag = keyring.by_tag
    should = Counter(keyring.hosts[node].tag for node in secret.readers)
    found = Counter(header.ssh_tags)
    faults = []
    if missing := [by_tag[tag] for tag in should - found]:
        faults.append(f"{listed(missing)} can't read it")
    surplus = [by_tag.get(tag, f"an unknown host key ({tag})") for tag in found - should]
    if surplus:
        faults.append(f"{listed(surplus)} can read it and must not")
    if header.x25519_count != 1:
        faults.append(f"it has {header.x25519_count} native recipients instead of the master alone")
    if header.others:
        faults.append(f"it has recipients of type {listed(header.others)}")
    return faults


def _recorded_faults(secret: Secret, recorded: Record, keyring: Keyring) -> list[str]:
    should, found = keyring.recipients(secret), recorded.recipients
    faults = [f"{keyring.name_of(key)} can't read it" for key in should if key not in found]
    surplus = [keyring.name_of(key) for key in found if key not in should]
    return faults + [f"{name} can read it and must not" for name in surplus]


def _length_fault(secret: Secret, header: Header) -> str | None:
    if header.plaintext_length == 0:
        return "it holds nothing"
    if secret.kind is Kind.WIREGUARD and header.plaintext_length not in WIREGUARD_LENGTHS:
        return f"it holds {header.plaintext_length} bytes, which no WireGuard key has"
    return None


def examine_all(
    secrets: tuple[Secret, ...],
    files: Mapping[str, bytes],
    keyring: Keyring,
    recorded: Mapping[str, Record],
    master: age.Master | None,
) -> tuple[Finding, ...]:
    """``examine`` for each of ``secrets``; ``files`` has the content by file name."""
    return tuple(
        examine(secret, files.get(secret.file), keyring, recorded.get(secret.file), master) for secret in secrets
    )
