"""The network between the machines."""

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.cli.deploy import SELECTION
from smallkube.cli.states import report

__all__ = ["check"]


@task(iterable=["node"], help={"node": SELECTION["node"], "json": "print JSON"})
def check(_: Context, node: list[str], json: bool = False) -> None:
    """Check bridge, WireGuard handshakes, pings over the tunnel."""
    from smallkube.deploy import checks
    from smallkube.secrets import peers

    here = current()
    keys = peers.public_keys(peers.read(here.workspace))
    nodes = here.inventory.select(words(node))
    report(here, nodes, lambda each, state: checks.network(here.inventory, each, state, keys), "", json=json)
