"""Secrets that get a new content, or the one of before beside them, or lose it: all files of one step change as one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, agenix, journal, policy, recipients_file
from smallkube.secrets.keyring import Keyring, demand, load_hosts, read_master, read_recipient
from smallkube.secrets.policy import Secret
from smallkube.secrets.proof import State, examine
from smallkube.secrets.store import Keys, read_keys


@dataclass(frozen=True)
class Contents:
    """``new``: secret → its plaintext; ``copied``: secret → the secret whose file it gets; ``gone``: removed.

    ``clear``: file in keys/ → its content, None where it is removed.
    """

    new: Mapping[Secret, bytes]
    copied: Mapping[Secret, Secret]
    gone: tuple[Secret, ...] = ()
    clear: Mapping[str, bytes | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Contents(new={[row.name for row in self.new]}, gone={[row.name for row in self.gone]})"

    @property
    def concerned(self) -> tuple[str, ...]:
        """What changes, for messages."""
        return (*(row.name for row in (*self.new, *self.copied, *self.gone)), *self.clear)


def apply(cluster: Cluster, contents: Contents) -> tuple[str, ...]:
    """Write ``contents`` with all that is derived from them, under the lock on keys/; the files that changed.

    Needs no private key. Raises SmallkubeError; nothing has changed then, or the next command that takes the lock
    completes it.
    """
    keys, keyring = read_keys(cluster.workspace), _keyring(cluster, (*contents.new, *contents.copied))
    files = {row.file: _sealed(row, plaintext, keyring) for row, plaintext in contents.new.items()}
    files |= {row.file: keys.files[source.file] for row, source in contents.copied.items()}
    gone = tuple(row.file for row in contents.gone)
    rows = {name: row for name, row in keys.records.items() if name in keys.files and name not in gone}
    for row in contents.new:
        rows[row.file] = recipients_file.record(files[row.file], keyring.recipients(row))
    for row, source in contents.copied.items():
        if source.file in keys.records:
            rows[row.file] = keys.records[source.file]
    present: Collection[str] = {*keys.files, *files} - set(gone)
    files |= {name: data for name, data in contents.clear.items() if data is not None}
    gone += tuple(name for name, data in contents.clear.items() if data is None)
    derived = {
        cluster.workspace.recipients_file.name: recipients_file.render(rows),
        cluster.workspace.secrets_nix.name: agenix.render(policy.expected(cluster.inventory, present), keyring),
    }
    whole = {**files, **{name: text.encode() for name, text in derived.items()}}
    journal.commit(cluster.workspace, journal.Change(contents.concerned, whole, gone))
    return (*files, *gone)


def opened(keys: Keys, master: age.Master, row: Secret) -> bytes:
    """The plaintext of ``row``; raises UsageError when its file is missing, SmallkubeError when it can't be opened."""
    if row.file not in keys.files:
        raise UsageError("missing", where=f"keys/{row.file}", hint="restore it from git")
    return age.decrypt(keys.files[row.file], master, f"keys/{row.file}")


def _keyring(cluster: Cluster, wanted: Collection[Secret]) -> Keyring:
    recipient = read_recipient(cluster.workspace, read_master(cluster.workspace))
    if recipient is None:
        raise UsageError(
            "no secrets yet",
            where=cluster.workspace.relative(cluster.workspace.keys_dir),
            hint="run `inv keys.generate`",
        )
    keyring = Keyring(recipient, load_hosts(cluster))
    demand(cluster.workspace, keyring, wanted)
    return keyring


def _sealed(row: Secret, plaintext: bytes, keyring: Keyring) -> bytes:
    data = age.encrypt(plaintext, keyring.recipients(row))
    found = examine(row, data, keyring, recipients_file.record(data, keyring.recipients(row)), None)
    if found.state is not State.GOOD:
        raise SmallkubeError("its encryption failed verification; nothing was changed", where=row.file)
    return data
