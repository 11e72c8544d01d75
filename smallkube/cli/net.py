"""The network between the machines."""

from smallkube.cli import output
from smallkube.cli.context import Current, Json, Nodes, task


@task
def check(here: Current, node: Nodes, json: Json = False) -> None:
    """Check the bridge, WireGuard and the tunnel.

    WireGuard handshakes between all nodes, and pings through the tunnel in IPv4
    and IPv6.
    """
    from smallkube.deploy import checks
    from smallkube.secrets import peers

    keys = peers.public_keys(peers.read(here.workspace))
    nodes = here.select(node)
    output.check_nodes(
        here, nodes, lambda each, found: checks.network(here.inventory, each, found, keys), "", json=json
    )
