"""New WireGuard keys in place of those there are.

Only the master's *public* key is needed: nothing is decrypted. New encrypted keys, peers.json and recipients.json
change as one (see ``journal``).
"""

from collections.abc import Collection
from dataclasses import dataclass

from smallkube.core.errors import UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import change, kinds, peers, policy
from smallkube.secrets.change import Contents
from smallkube.secrets.keyring import Keyring, demand, load_hosts, read_master, read_recipient
from smallkube.secrets.policy import Kind, Secret


@dataclass(frozen=True)
class Plan:
    """The WireGuard keys that get a successor, and the peers as they are now."""

    replace: tuple[Secret, ...]
    peers: peers.Peers


@dataclass(frozen=True)
class Outcome:
    """The files written, and in words how peers.json has changed."""

    written: tuple[str, ...]
    peers: tuple[str, ...]


def plan(cluster: Cluster, nodes: Collection[str] = (), completed: Collection[str] = ()) -> Plan:
    """Whose key would be replaced: that of ``nodes`` (names), of all when there are none.

    ``completed``: names of secrets whose interrupted change has just been completed, which are not replaced again.

    Raises UsageError when the master's public key or a reader's host key is missing, or peers.json is damaged.
    """
    recipient = read_recipient(cluster.workspace, read_master(cluster.workspace))
    if recipient is None:
        where = cluster.workspace.relative(cluster.workspace.keys_dir)
        raise UsageError("no secrets yet", where=where, hint="run `inv keys.generate`")
    rows = (row for row in policy.secrets_of(cluster.inventory) if row.kind is Kind.WIREGUARD)
    wanted = tuple(row for row in rows if row.name not in completed and (not nodes or row.node in nodes))
    demand(cluster.workspace, Keyring(recipient, load_hosts(cluster)), wanted)
    return Plan(wanted, peers.read(cluster.workspace))


def act(cluster: Cluster, planned: Plan) -> Outcome:
    """Carry out ``planned``, under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; either nothing has changed then, or the next command that
    takes the lock completes it.
    """
    new = {row: kinds.make(row.kind, ()) for row in planned.replace}
    public = {cluster.inventory.node(row.node).index: kinds.wireguard_public(new[row], row.file) for row in new}
    changed = peers.updated(planned.peers, cluster.inventory, public)
    clear = {cluster.workspace.peers_file.name: changed.text.encode()}
    return Outcome(change.apply(cluster, Contents(new, {}, clear=clear)), changed.words)
