"""Node index to subnets, addresses and names; the twin of nix/modules/lib.nix.

Index 0 is the Services'. N is written in decimal in both families, so N is at most 254.
"""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class Addressing:
    """The address plan of one cluster: ``prefix6`` is one IPv6 group ("fd88"), ``prefix4`` two octets ("10.88").

    ``prefer`` is "ipv4" or "ipv6". ``services4``: "" for the whole of index 0; ``services6``: "" for none.
    """

    prefix6: str = "fd88"
    prefix4: str = "10.88"
    domain: str = "k8s.internal"
    prefer: str = "ipv4"
    services4: str = ""
    services6: str = ""

    def cidr6(self, index: int) -> str:
        """Container subnet of a node, "fd88:2::/32"."""
        return f"{self.prefix6}:{index}::/32"

    def cidr4(self, index: int) -> str:
        """Container subnet of a node, "10.88.2.0/24"."""
        return f"{self.prefix4}.{index}.0/24"

    def host6(self, index: int) -> str:
        """Address of the node itself (the gateway of its containers), "fd88:2::1"."""
        return f"{self.prefix6}:{index}::1"

    def host4(self, index: int) -> str:
        """Address of the node itself (the gateway of its containers), "10.88.2.1"."""
        return f"{self.prefix4}.{index}.1"

    def node_host(self, index: int) -> str:
        """Kubernetes name of a node, "node2.k8s.internal"."""
        return f"node{index}.{self.domain}"

    @property
    def networks(self) -> tuple[ipaddress.IPv6Network | ipaddress.IPv4Network, ...]:
        """Everything of this cluster: fd88::/16, 10.88.0.0/16, and the Services' range where it is elsewhere."""
        six, four = ipaddress.IPv6Network(f"{self.prefix6}::/16"), ipaddress.IPv4Network(f"{self.prefix4}.0.0/16")
        services = ipaddress.IPv4Network(self.services4 or self.cidr4(0))
        return (six, four) if services.subnet_of(four) else (six, four, services)

    @property
    def services(self) -> tuple[str, ...]:
        """The Services' ranges, one a family, that of the default family first."""
        ranges = filter(None, (self.services4 or self.cidr4(0), self.services6))
        return tuple(sorted(ranges, key=lambda cidr: (":" in cidr) != (self.prefer == "ipv6")))

    @property
    def api_service_ip(self) -> str:
        """Cluster IP of the API's own Service, always the first of the Services' first range."""
        return str(ipaddress.ip_network(self.services[0])[1])

    @property
    def api_internal_host(self) -> str:
        """Name of the API server inside the cluster, "api.k8s.internal"."""
        return f"api.{self.domain}"


def is_address(text: str) -> bool:
    """Whether it is an IP address of either family, rather than a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
