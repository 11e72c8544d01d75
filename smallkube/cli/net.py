"""The network between the machines."""

from smallkube.cli import output
from smallkube.cli.context import Current, task


@task("node", "json", "wide")
def check(here: Current) -> None:
    """Check the bridge, WireGuard and the tunnel.

    WireGuard handshakes between all nodes, pings through the tunnel in IPv4 and
    IPv6, the address that it sends from, and rules that drop what pods send.
    """
    from smallkube.deploy import checks
    from smallkube.secrets import peers

    keys = peers.public_keys(peers.read(here.workspace))
    output.check_nodes(here, here.nodes, lambda node, found: checks.network(here.inventory, node, found, keys), "")
