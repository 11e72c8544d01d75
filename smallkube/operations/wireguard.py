"""New WireGuard keys in place of those there are.

Only the master's *public* key is needed: nothing is decrypted. New encrypted keys, peers.json and recipients.json
change as one (see ``journal``).
"""

from collections.abc import Collection
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, journal, kinds, peers, policy, recipients_file
from smallkube.secrets.keyring import Keyring, demand, load_hosts, read_master, read_recipient
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.proof import State, examine
from smallkube.secrets.store import Keys, read_keys


@dataclass(frozen=True)
class WireguardPlan:
    """The WireGuard keys that get a successor, and what is there now."""

    replace: tuple[Secret, ...]
    keyring: Keyring
    keys: Keys
    peers: peers.Peers


@dataclass(frozen=True)
class WireguardOutcome:
    """The files written, and in words how peers.json has changed."""

    written: tuple[str, ...]
    peers: tuple[str, ...]


def plan_wireguard(cluster: Cluster, nodes: Collection[str] = ()) -> WireguardPlan:
    """Whose key would be replaced: that of ``nodes`` (names), of all when there are none.

    Raises UsageError when the master's public key or a reader's host key is missing, or peers.json is damaged.
    """
    recipient = read_recipient(cluster.workspace, read_master(cluster.workspace))
    if recipient is None:
        where = cluster.workspace.relative(cluster.workspace.keys_dir)
        raise UsageError("no secrets yet", where=where, hint="run `inv keys.generate`")
    keyring = Keyring(recipient, load_hosts(cluster))
    table = policy.secrets_of(cluster.inventory)
    wanted = tuple(row for row in table if row.kind is Kind.WIREGUARD and (not nodes or row.node in nodes))
    demand(cluster.workspace, keyring, wanted)
    return WireguardPlan(wanted, keyring, read_keys(cluster.workspace), peers.read(cluster.workspace))


def act_wireguard(cluster: Cluster, planned: WireguardPlan) -> WireguardOutcome:
    """Carry out ``planned``, under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; either nothing has changed then, or the next command that
    takes the lock completes it.
    """
    keys, keyring = planned.keys, planned.keyring
    rows = {name: record for name, record in keys.records.items() if name in keys.files}
    files, public = {}, {}
    for row in planned.replace:
        private = kinds.make(row.kind, ())
        public[cluster.inventory.node(row.node).index] = kinds.wireguard_public(private, row.file)
        files[row.file] = age.encrypt(private, keyring.recipients(row))
        rows[row.file] = recipients_file.record(files[row.file], keyring.recipients(row))
        found = examine(row, files[row.file], keyring, rows[row.file], None)
        if found.state is not State.GOOD:
            raise SmallkubeError("its encryption failed verification; nothing was changed", where=row.file)
    change = peers.updated(planned.peers, cluster.inventory, public)
    files[cluster.workspace.peers_file.name] = change.text.encode()
    files[cluster.workspace.recipients_file.name] = recipients_file.render(rows).encode()
    journal.commit(cluster.workspace, journal.Change(tuple(row.node for row in planned.replace), files))
    return WireguardOutcome(tuple(files), change.words)
