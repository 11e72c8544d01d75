"""Measures, with the rules of two evaluated nodes in network namespaces, who reaches which address and port. What is
found must be the table in docs/security.md."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lab.checks.evaluate import Description
from smallkube.core import process
from smallkube.core.workspace import REPOSITORY

from . import reach
from .conftest import Build, Describe

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
OPEN = {"network": {"open_to_pods": [9200]}, "api": {"allow_from": [reach.ALLOWED_FROM]}}
SOURCES = {
    "a pod of the node": "pod{n}",
    "a pod elsewhere": "pod{other}",
    "the node": "node{n}",
    "the other node": "node{other}",
    "LAN neighbour": "lan{n}",
    "`allow_from`": "admin{n}",
}
"""Column → namespace, for the addresses of node N."""


@dataclass(frozen=True)
class Row:
    """What is asked for: addresses of each of ``nodes``, a port."""

    label: str
    addresses: tuple[str, ...]
    port: int
    nodes: tuple[int, ...] = (1, 2)
    protocol: str = "tcp"


TUNNEL = ("fd88:{n}::1", "10.88.{n}.1")
LAN = ("2001:db8::{n}", "192.0.2.{n}")
POD = ("fd88:{n}::5", "10.88.{n}.5")
ROWS = (
    Row("pods", POD, reach.POD_PORT),
    Row("Service of pods", (reach.PODS,), 80),
    Row("Service of the API", (reach.API,), 443),
    Row("Service of a hostNetwork pod of the node", (reach.HOST1,), 80, (1,)),
    Row("Service of a hostNetwork pod of the other node", (reach.HOST2,), 80, (1,)),
    Row("NodePort, cluster addresses", ("10.88.{n}.1",), reach.NODE_PORT),
    Row("NodePort, LAN address", ("192.0.2.{n}",), reach.NODE_PORT),
    Row("API of the primary, cluster addresses", TUNNEL, 6443, (1,)),
    Row("API of the primary, LAN address", ("192.0.2.1",), 6443, (1,)),
    Row("kubelet of the primary, cluster addresses", TUNNEL, 10250, (1,)),
    Row("kubelet of a worker, cluster addresses", TUNNEL, 10250, (2,)),
    Row("kubelet, LAN addresses", LAN, 10250),
    Row("DNS, cluster addresses", TUNNEL, 53, protocol="udp"),
    Row("port of a hostNetwork pod, cluster addresses", TUNNEL, 9100),
    Row("port in `open_to_pods`, cluster addresses", TUNNEL, 9200),
    Row("port in `open_to_pods`, LAN addresses", LAN, 9200),
    Row("any other port, cluster addresses", TUNNEL, 9300),
    Row("any other port, LAN addresses", LAN, 9300),
    Row("SSH, cluster addresses", TUNNEL, 22),
    Row("SSH, LAN addresses", LAN, 22),
    Row("WireGuard, LAN address", ("192.0.2.{n}",), 51820, protocol="udp"),
    Row("machine beyond, through the node", (reach.WORLD,), 80),
    Row("169.254.169.254 on the LAN (metadata of a cloud)", (reach.METADATA,), 80),
)


def probes(row: Row) -> dict[str, list[reach.Probe]]:
    """For each column the probes of this row."""
    return {
        column: [
            (source.format(n=n, other=3 - n), row.protocol, address.format(n=n), row.port)
            for n in row.nodes
            for address in row.addresses
        ]
        for column, source in SOURCES.items()
    }


def cell(answers: list[bool]) -> str:
    return "yes" if all(answers) else "part" if any(answers) else "–"


@pytest.fixture
def describe_nodes(needs: Needs, build: Build, describe: Describe) -> Callable[[str], dict[str, Description]]:
    """``describe_nodes(own)``: primary and worker, both with ``own`` as the content of their files in nix/hosts."""
    tools = all(process.find(name) for name in ("nft", "ip", "unshare"))
    needs("integration", tools and os.geteuid() == 0, "nft, ip, unshare and root")

    def described(own: str = "{ }") -> dict[str, Description]:
        tree = build((1, 2), **OPEN)
        return describe(tree.with_file("nix/hosts/node1.nix", own).with_file("nix/hosts/node2.nix", own))

    return described


def test_security_table_is_what_the_rules_do(describe_nodes: Callable[[], dict[str, Description]]) -> None:
    asked = [(row, column, probe) for row in ROWS for column, all_of in probes(row).items() for probe in all_of]
    answers = reach.measure(describe_nodes(), [probe for _, _, probe in asked])
    lines = [f"| to | {' | '.join(SOURCES)} |", f"|{'---|' * (len(SOURCES) + 1)}"]
    for row in ROWS:
        cells = [
            cell([answer for (r, c, _), answer in zip(asked, answers, strict=True) if (r, c) == (row, column)])
            for column in SOURCES
        ]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    assert table in (REPOSITORY / "docs/security.md").read_text(), f"measured:\n{table}"


def test_link_local_ends_at_the_bridge(describe_nodes: Callable[[], dict[str, Description]]) -> None:
    expected = {
        ("pod1", "tcp", "fe80::1%eth0", 22): True,
        ("pod1", "tcp", f"{reach.LINK_LOCAL}%eth0", 80): False,
        ("pod1", "tcp", reach.METADATA, 80): False,
        ("pod1", "tcp", reach.LEAK, 80): False,
        ("node1", "tcp", f"{reach.LINK_LOCAL}%lan0", 80): True,
        ("node1", "tcp", reach.METADATA, 80): True,
    }
    assert dict(zip(expected, reach.measure(describe_nodes(), [*expected]), strict=True)) == expected


def test_only_a_service_opens_the_port_of_another_host(describe_nodes: Callable[[], dict[str, Description]]) -> None:
    probes: list[reach.Probe] = [
        (source, "forged", address, port)
        for source in ("pod2", "node2")
        for address in ("fd88:1::1", "10.88.1.1")
        for port in (9100, 9300)
    ]
    assert not any(reach.measure(describe_nodes(), probes))


def test_node_ports_on_the_lan_answer_neighbours(describe_nodes: Callable[[str], dict[str, Description]]) -> None:
    expected = {
        (source, "tcp", f"192.0.2.{n}", port): True
        for n in (1, 2)
        for source in (f"lan{n}", f"admin{n}", f"node{3 - n}")
        for port in (reach.NODE_PORT, reach.HOST_NODE_PORT)
    }
    expected |= {("lan1", "tcp", address, port): False for address, port in ((reach.PODS, 80), ("192.0.2.1", 9100))}
    nodes = describe_nodes('{ kube.nodePorts = [ "tunnel" "lan" ]; }')
    assert dict(zip(expected, reach.measure(nodes, [*expected]), strict=True)) == expected
