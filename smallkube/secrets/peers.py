"""keys/peers.json: what every node must know of every other one, in the order of the indices; ``null`` is a hole.

Other tools may write it too (OpenTofu, say): keys that are not ours are kept, the inventory decides on PeerIP.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.secrets import kinds
from smallkube.secrets.policy import Secret

FILE = "peers.json"

Peers = list[dict[str, Any] | None]


@dataclass(frozen=True)
class Change:
    """The new content, and in words how it differs from what is there; no words: leave the file alone."""

    peers: Peers
    words: tuple[str, ...]

    @property
    def files(self) -> dict[str, bytes]:
        """What has to be written to keys/."""
        text = json.dumps(self.peers, indent=2, ensure_ascii=False) + "\n"
        return {FILE: text.encode()} if self.words else {}


def read(workspace: Workspace) -> Peers:
    """The entries, the first being node1's; empty when there is no such file. Raises UsageError when damaged."""
    path = workspace.peers_file
    where = workspace.relative(path)
    text = workspace.read_text(path)
    if text is None:
        return []
    try:
        peers = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("not JSON", where=where, hint="restore it from git") from error
    if not isinstance(peers, list) or not all(peer is None or isinstance(peer, dict) for peer in peers):
        raise UsageError("must be a list of objects, with null for holes", where=where)
    for index, peer in enumerate(peers, 1):
        if peer and "PublicKey" in peer and not kinds.wireguard_key(str(peer["PublicKey"]).encode(errors="replace")):
            raise UsageError(f"PublicKey of node{index} is not a WireGuard key", where=where)
    return peers


def public_keys(peers: Peers) -> dict[int, str]:
    """Index → public key, for the nodes that have one."""
    return {index: peer["PublicKey"] for index, peer in enumerate(peers, 1) if peer and "PublicKey" in peer}


def published(cluster: Cluster, plaintexts: Mapping[Secret, bytes]) -> Change:
    """peers.json made to fit the inventory and those of these secrets that have a public key in it."""
    new_keys = {
        cluster.inventory.node(row.node).index: kinds.wireguard_public(text, row.file)
        for row, text in plaintexts.items()
        if row.publishes_key
    }
    return updated(read(cluster.workspace), cluster.inventory, new_keys)


def updated(peers: Peers, inventory: Inventory, new_keys: Mapping[int, str]) -> Change:
    """``peers`` made to fit the inventory, with ``new_keys`` (index → public key) set."""
    nodes, found = {node.index: node for node in inventory.nodes}, dict(enumerate(peers, 1))
    words = [f"node{index} removed" for index, entry in found.items() if entry is not None and index not in nodes]
    for index, node in nodes.items():
        entry = found.get(index) or {}
        if key := new_keys.get(index, entry.get("PublicKey")):
            words += _words(index, entry, key, node.peer_ip)
            found[index] = {**entry, "PublicKey": key, "PeerIP": node.peer_ip}
    result = [found.get(index) if index in nodes else None for index in range(1, max(nodes) + 1)]
    if not words and len(result) != len(peers):
        words.append("holes at the end removed" if len(result) < len(peers) else "holes added")
    return Change(result, tuple(words))


def _words(index: int, before: Mapping[str, Any], key: str, address: str) -> list[str]:
    if "PublicKey" not in before:
        return [f"node{index} added"]
    words = [f"node{index} has a new public key"] if before["PublicKey"] != key else []
    if before.get("PeerIP") != address:
        was = before.get("PeerIP", "missing")
        words.append(f"PeerIP of node{index} was {was}, is {address} in the inventory")
    return words
