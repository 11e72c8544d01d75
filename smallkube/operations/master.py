"""A new master identity instead of the one in keys/master_key, and what the previous one was able to read.

The new identity is put above the previous one, which makes it the master (see ``rekey``), and takes its place among
the administrators of inventory.yaml, if there are any; then every file is encrypted to it. How far a rotation has come
follows from these files alone, so that the same command resumes an interrupted one. The previous identity stays below:
earlier backups are encrypted to it, and not to the new one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from smallkube.core.errors import UsageError, listed, split_lines
from smallkube.core.workspace import IDENTITY, Workspace
from smallkube.inventory import edit, load, positions
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, rekey, transaction
from smallkube.secrets.age import Master, require_master
from smallkube.secrets.age_identities import NativeIdentity
from smallkube.secrets.policy import Secret


class Stage(StrEnum):
    """How far a rotation has come."""

    ONE = "one identity"
    BEGUN = "begun"
    BOTH = "previous identity kept"


@dataclass(frozen=True)
class Plan:
    """``files`` are (still) to be encrypted to the new master, ``stray`` are no secrets of this inventory and are left.

    ``master`` is the recipient (``age1…``) in force after what has been begun; ``old`` are those of the identities
    below it.
    """

    stage: Stage
    master: str
    old: tuple[str, ...]
    files: tuple[str, ...]
    stray: tuple[str, ...]


def plan(cluster: Cluster) -> Plan:
    """Call it under the lock on keys/ to act on it.

    Raises UsageError when the master or a host key is not found, or keys/master_key is no identity of age's own, and
    SmallkubeError when a file can't be opened: a rotation would leave it behind.
    """
    master = require_master(cluster.workspace, "to re-encrypt")
    if cluster.workspace.identity_file != cluster.workspace.master_key:
        raise UsageError("a rotation replaces keys/master_key, not another identity", where=IDENTITY, hint="unset it")
    if not all(isinstance(each, NativeIdentity) for each in master.identities):
        hint = "make another one with its own program; then inv admins.add, inv admins.remove"
        raise UsageError("only age's own identities are rotated", where=master.where, hint=hint)
    planned = rekey.plan_all(_naming_first(cluster, master)[0])
    mine = tuple(finding.secret.file for finding in planned.change)
    everything = (*mine, *(row.file for row in planned.good))
    stray = tuple(name for name in planned.keys.files if name not in everything)
    if len(master.recipients) == 1:
        return Plan(Stage.ONE, master.recipient, (), everything, stray)
    unnamed = planned.new_master or _naming_first(cluster, master)[1] is not None
    stage = Stage.BEGUN if unnamed or mine else Stage.BOTH
    return Plan(stage, master.recipient, master.recipients[1:], mine, stray)


def act(cluster: Cluster, planned: Plan) -> tuple[str, ...]:
    """Begin or end a rotation, under the lock that was held while planning; the files that were re-encrypted.

    Raises SmallkubeError when a file can't be written: the same command resumes.
    """
    if planned.stage is Stage.ONE:
        new, _ = age.new_identity()
        transaction.write_identities(cluster.workspace, new + _text(cluster.workspace))
    named, text = _naming_first(cluster, require_master(cluster.workspace, "to re-encrypt"))
    if text is not None:
        edit.write(cluster.workspace.inventory_file, text)
    again = rekey.plan(named)
    rekey.act(named, again)
    return tuple(finding.secret.file for finding in again.change)


def _naming_first(cluster: Cluster, master: Master) -> tuple[Cluster, str | None]:
    """The cluster whose inventory names the first identity instead of one below it; its text, None where it stays."""
    named = cluster.inventory.cluster.secrets.admins
    known = [name for name, each in named.items() if each in master.recipients]
    if not known or master.recipient in named.values():
        return cluster, None
    file = cluster.workspace.inventory_file
    text = edit.change_admin(positions.read_text(file), known[0], master.recipient)
    return Cluster(cluster.workspace, load.parse(text, file)), text


def drop(workspace: Workspace, planned: Plan) -> tuple[str, ...]:
    """Remove all identities but the master from keys/master_key, under the lock held while planning; whose they were.

    Raises UsageError while a secret can only be read by one of them.
    """
    if planned.stage is Stage.BEGUN:
        hint = "run `inv keys.rotate-master` without --drop-old, which completes it"
        raise UsageError(f"{listed(planned.files, 3)} can't be read without the previous identity", hint=hint)
    if planned.stage is Stage.BOTH:
        transaction.write_identities(workspace, first_identity(_text(workspace)))
    return planned.old


def first_identity(text: str) -> str:
    """An identity file up to its first identity; what is above that is kept."""
    lines = split_lines(text)
    end = next(number for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#"))
    return "\n".join([*lines[:end], ""])


def reissue(rows: Iterable[Secret]) -> dict[str, list[str]]:
    """Command → the names of the secrets that it replaces."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.kind.rotated_by, []).append(row.name)
    return found


def _text(workspace: Workspace) -> str:
    return workspace.read_text(workspace.master_key) or ""
