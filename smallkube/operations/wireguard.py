"""New WireGuard keys instead of the current ones.

Only the master's *public* key is needed: nothing is decrypted. Encrypted keys, peers.json and recipients.json change as
one (see ``transaction``).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from smallkube.core.errors import listed
from smallkube.deploy.plan import require_current
from smallkube.inventory.cluster import Cluster
from smallkube.remote.host import Connect
from smallkube.secrets import keyring, kinds, peers, policy, transaction
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Change


@dataclass(frozen=True)
class Outcome:
    """The files written, and in words how peers.json has changed."""

    written: tuple[str, ...]
    peers: tuple[str, ...]


def warnings(cluster: Cluster, connect: Connect) -> Iterator[str]:
    """Ask all machines, to which new keys must be deployed in lockstep, what they have.

    Raises as ``require_current``.
    """
    found, entries = require_current(cluster, connect), peers.public_keys(peers.read(cluster.workspace))
    nodes = cluster.inventory.nodes
    if silent := [node.name for node in nodes if node.name not in found]:
        yield f"no answer from {listed(silent)}: new keys can't be deployed before all nodes can be reached"
    keys = {node.name: found[node.name].public_key for node in nodes if node.name in found}
    if other := [node.name for node in nodes if keys.get(node.name, "") not in ("", entries.get(node.index))]:
        yield f"{listed(other)} runs another WireGuard key than keys/peers.json has: keys/ was not deployed"


def plan(cluster: Cluster, nodes: Collection[str] = (), completed: Collection[str] = ()) -> tuple[Secret, ...]:
    """Which keys would be replaced: those of ``nodes`` (names), of all when there are none.

    ``completed``: nodes whose interrupted change has just been completed; their keys are not replaced again.
    Raises UsageError when the master's public key or a reader's host key is missing, or peers.json is damaged.
    """
    rows = (row for row in policy.secrets_of(cluster.inventory) if row.kind is Kind.WIREGUARD)
    wanted = tuple(row for row in rows if row.node not in completed and (not nodes or row.node in nodes))
    keyring.require_host_keys(cluster.workspace, keyring.load_keyring(cluster), wanted)
    peers.read(cluster.workspace)
    return wanted


def act(cluster: Cluster, rows: Collection[Secret]) -> Outcome:
    """Replace ``rows``, under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; either nothing has changed then, or the next command that takes
    the lock completes it.
    """
    new = {row: kinds.make(row.kind, ()) for row in rows}
    found = peers.published(cluster, new)
    change = Change(new, public=found.files, subjects=[row.node for row in rows])
    return Outcome(transaction.apply(cluster, change), found.words)
