"""The network between the machines."""

from invoke.context import Context

from smallkube.tasks import current, task, words
from smallkube.tasks.deploy import SELECTION
from smallkube.tasks.states import report

__all__ = ["check"]


@task(iterable=["node"], help={"node": SELECTION["node"], "json": "print JSON"})
def check(_: Context, node: list[str], json: bool = False) -> None:
    """Check bridge, WireGuard handshakes, pings over the tunnel."""
    from smallkube.deploy import judge
    from smallkube.secrets import peers

    here = current()
    keys = peers.public_keys(peers.read(here.workspace))
    nodes = here.inventory.select(words(node))
    report(here, nodes, lambda each, state: judge.network(here.inventory, each, state, keys), "", json=json)
