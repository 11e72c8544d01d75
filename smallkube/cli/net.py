"""The network between the machines."""

from invoke.context import Context

from smallkube.cli import output
from smallkube.cli.context import JSON, NODE, current, task


@task(iterable=["node"], help={**NODE, **JSON})
def check(_: Context, node: list[str], json: bool = False) -> None:
    """Check the bridge, WireGuard and the tunnel.

    WireGuard handshakes between all nodes, and pings through the tunnel in IPv4
    and IPv6.
    """
    from smallkube.deploy import checks
    from smallkube.secrets import peers

    here = current()
    keys = peers.public_keys(peers.read(here.workspace))
    nodes = here.select(node)
    output.check_nodes(
        here, nodes, lambda each, found: checks.network(here.inventory, each, found, keys), "", json=json
    )
