"""Administrators: who there are and what each can read, one more, and the inventory's edits for that."""

from collections.abc import Mapping
from dataclasses import dataclass

from smallkube.core.errors import UsageError, listed
from smallkube.inventory import admins, edit, load, positions
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, exposed, policy, recipients, rekey, transaction
from smallkube.secrets.keyring import MASTER, admins_of, load_keyring


@dataclass(frozen=True)
class Row:
    """One administrator. ``here``: the operator's identity is theirs.

    ``unreadable``: secrets that they can't read; ``unknown``: those of which neither record nor header tells.
    """

    name: str
    kind: str
    recipient: str
    here: bool
    unreadable: tuple[str, ...]
    unknown: tuple[str, ...]


def status(cluster: Cluster) -> tuple[Row, ...]:
    """All of them, by records and headers. Raises UsageError where no administrator is known yet."""
    master = age.read_master(cluster.workspace)
    keyring, keys = load_keyring(cluster, master), transaction.read_keys(cluster.workspace)
    known = recipients.read_records(cluster.workspace)
    rows = [row for row in policy.expected(cluster.inventory, keys.files) if row.file in keys.files]
    found = {row.name: recipients.readable(row, keys.files[row.file], keyring, known.get(row.file)) for row in rows}
    own = keyring.named(master)
    return tuple(
        Row(
            name,
            admins.kind_of(each),
            each,
            name in own,
            tuple(secret for secret, can in found.items() if can[name] is False),
            tuple(secret for secret, can in found.items() if can[name] is None),
        )
        for name, each in keyring.admins.items()
    )


@dataclass(frozen=True)
class Addition:
    """``cluster`` with the new administrator; ``text`` of its inventory, None where it stays; what to re-encrypt."""

    cluster: Cluster
    text: str | None
    rekey: rekey.Plan


def plan_addition(cluster: Cluster, name: str, text: str) -> Addition:
    """``text``: the recipient. Call it under the lock on keys/ to act on it.

    Raises UsageError on an unusable name or recipient, one that is another's, or without an identity that reads all.
    """
    try:
        recipient = admins.recipient(text)
    except ValueError as error:
        raise UsageError(f"--recipient: {error}") from error
    leaving = exposed.read(cluster.workspace)
    if leaving and (name == leaving.name or recipient == leaving.recipient):
        hint = f"complete it, or abort it: inv admins.remove {leaving.name} --abort"
        raise UsageError(f"the removal of {leaving.name} is under way", hint=hint)
    master = age.require_master(cluster.workspace, "to re-encrypt")
    age.encrypt(b"", [recipient])  # what is not installed, or no point of the curve, shows before anything changes
    file = cluster.workspace.inventory_file
    before = positions.read_text(file)
    after = _with(before, admins_of(cluster, master), cluster.inventory.cluster.secrets.admins, name, recipient)
    new = Cluster(cluster.workspace, load.parse(after, file))
    return Addition(new, None if after == before else after, rekey.plan_all(new))


def _with(text: str, now: Mapping[str, str], named: Mapping[str, str], name: str, recipient: str) -> str:
    """The inventory with the administrator; the first who is named takes the one who is not named with them."""
    if now.get(name, recipient) != recipient:
        hint = "give the new one another name"
        raise UsageError(f"the administrator {name} has another recipient", hint=hint)
    if not named:
        for each, known in now.items():
            text = edit.add_admin(text, each, known) if known != recipient else text
    return text if name in named else edit.add_admin(text, name, recipient)


def add(planned: Addition) -> tuple[str, ...]:
    """Carry it out under the lock on keys/ that was held while planning; the files that were re-encrypted.

    Raises SmallkubeError when a file can't be written: the same command resumes.
    """
    if planned.text is not None:
        edit.write(planned.cluster.workspace.inventory_file, planned.text)
    rekey.act(planned.cluster, planned.rekey)
    return tuple(finding.secret.file for finding in planned.rekey.change)


def require(cluster: Cluster, name: str) -> str:
    """The recipient of an administrator. Raises UsageError that lists those there are."""
    named = cluster.inventory.cluster.secrets.admins
    if not named:
        hint = f"keys/master_key is the only one, {MASTER}: inv keys.rotate-master replaces it"
        raise UsageError("cluster.secrets.admins names no administrators", hint=hint)
    if name not in named:
        raise UsageError(f"no administrator {name!r}", hint=f"there are {listed(named)}")
    return named[name]
