"""Rules over more than one field of the inventory: pure, each yields every breach it finds."""

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

from smallkube.core.errors import UsageError
from smallkube.inventory.addressing import Addressing
from smallkube.inventory.models import ClusterSettings, Node
from smallkube.inventory.positions import Document

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def check(
    document: Document, root: Path, cluster: ClusterSettings | None, nodes: Sequence[Node]
) -> Iterator[UsageError]:
    """Every breach; parts that were invalid by themselves are None or left out, and not judged again here."""
    yield from _primary(document)
    yield from _same_address(document, nodes)
    if cluster:
        yield from _overlaps(document, cluster, nodes)
        yield from _ports(document, cluster)
        yield from _addons(document, root, cluster)


def _primary(document: Document) -> Iterator[UsageError]:
    entries = document.data.get("nodes")
    if isinstance(entries, dict) and entries and "node1" not in entries:
        yield document.problem(("nodes",), "node1 is missing: it is the primary")


def _same_address(document: Document, nodes: Sequence[Node]) -> Iterator[UsageError]:
    peers: dict[object, str] = {}
    logins: dict[tuple[str, int], str] = {}
    for node in nodes:
        other = peers.setdefault(ipaddress.ip_address(node.peer_ip), node.name)
        if other != node.name:
            yield document.problem(("nodes", node.name, "peer_ip"), f"{node.peer_ip} is {other}'s address already")
        login = logins.setdefault((node.ssh.host, node.ssh.port), node.name)
        if login not in (node.name, other):
            yield document.problem(
                ("nodes", node.name, "ssh"), f"{node.ssh.host} port {node.ssh.port} is {login}'s already"
            )


def _overlaps(document: Document, cluster: ClusterSettings, nodes: Sequence[Node]) -> Iterator[UsageError]:
    plan = Addressing(cluster.network.prefix6, cluster.network.prefix4, cluster.domain)
    ranges: tuple[IPNetwork, ...] = tuple(
        ipaddress.ip_network(cidr) for cidr in (plan.cluster_cidr6, plan.cluster_cidr4)
    )
    for node in nodes:
        for own in ranges:
            if ipaddress.ip_address(node.peer_ip) in own:
                yield document.problem(
                    ("nodes", node.name, "peer_ip"),
                    f"{node.peer_ip} is in the cluster's own network {own}",
                    "give the machine's address outside the tunnel, or another cluster.network prefix",
                )
    for position, cidr in enumerate(cluster.network.private):
        network = ipaddress.ip_network(cidr)
        for own in ranges:
            if network.version == own.version and network.overlaps(own) and network.prefixlen > 0:
                yield document.problem(
                    ("cluster", "network", "private", position),
                    f"{cidr} overlaps the cluster's own network {own}",
                )


def _ports(document: Document, cluster: ClusterSettings) -> Iterator[UsageError]:
    if cluster.api.port == 10250:
        yield document.problem(("cluster", "api", "port"), "10250 is the kubelet's port")


def _addons(document: Document, root: Path, cluster: ClusterSettings) -> Iterator[UsageError]:
    names: dict[str, str] = {}
    for position, addon in enumerate(cluster.addons):
        at = ("cluster", "addons", position)
        if not (root / addon).is_file():
            yield document.problem(at, f"{addon}: no such file in the workspace")
        other = names.setdefault(Path(addon).name, addon)
        if other != addon:
            yield document.problem(at, f"{addon} has the same file name as {other}")
