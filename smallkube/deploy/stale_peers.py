"""Which machines have yet to learn of a change of peers.json: asked before the plan is made."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.ssh import SshHost

PEERS_ON_HOST = "/etc/smallkube/peers.json"


@dataclass(frozen=True)
class Survey:
    """``changed``: the nodes asked for that have an older peers.json; ``left_out``: others that have one.

    A machine that was never deployed has none, and can't be reached by the others in any case.
    """

    changed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def survey(cluster: Cluster, nodes: Sequence[Node], peers: bytes) -> Survey:
    """Ask ``nodes``, and the others only if there is a change; machines that can't be asked are passed over."""
    wanted = hashlib.sha256(peers).hexdigest()
    known = _ask(cluster.workspace, nodes)
    if all(digest == wanted for digest in known.values()):
        return Survey()
    others = _ask(cluster.workspace, [node for node in cluster.inventory.nodes if node not in nodes])
    return compare(known, others, wanted)


def compare(known: Mapping[str, str], others: Mapping[str, str], wanted: str) -> Survey:
    """``known`` and ``others``: node → SHA-256 of the peers.json that it runs with, "" when it has none."""
    return Survey(
        changed=tuple(name for name, digest in known.items() if digest and digest != wanted),
        left_out=tuple(name for name, digest in others.items() if digest and digest != wanted),
    )


def _ask(workspace: Workspace, nodes: Sequence[Node]) -> dict[str, str]:
    def ask(node: Node) -> str:
        with SshHost(workspace, node) as session:
            return session.run(Command(("sha256sum", PEERS_ON_HOST))).text.partition(" ")[0]

    return {outcome.node.name: outcome.value or "" for outcome in fleet.run([nodes], ask) if not outcome.failed}
