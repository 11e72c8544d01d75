"""The network between the machines."""

from typing import Annotated

from smallkube.cli import output
from smallkube.cli.context import Current, Limits, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError

HEADINGS = (
    "FROM",
    "TO",
    "TUNNEL Mbit/s",
    "DIRECT Mbit/s",
    "COST",
    "TUNNEL ms",
    "DIRECT ms",
    "TUNNEL CPU s/GiB",
    "DIRECT CPU s/GiB",
)


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


@task("node", "role", "tag", "json", "wide")
def bench(
    here: Current,
    seconds: Annotated[int, Limits(1, 60), "how long each transfer takes (default: 3)"] = 3,
) -> None:
    """Measure throughput and latency between nodes.

    Between each two nodes, in both directions, inside and outside of the tunnel:
    one TCP connection, and ten pings. COST is what the encryption takes of the
    throughput. Port 5201 is open to these nodes meanwhile. It loads the network
    and the processors; a cluster of more than five nodes takes long: pass --node.
    """
    from smallkube.operations import bench as benchmark

    nodes = here.nodes
    longest = benchmark.duration(nodes, seconds)
    ui.message(f"measuring {len(nodes) * (len(nodes) - 1)} pairs, at most {longest} s")
    rows = benchmark.run(here.inventory, nodes, here.connect, seconds, ui.message)
    cells = [
        (
            *(row.sender, row.receiver, _cell(row.tunnel.mbits), _cell(row.direct.mbits), _cell(row.cost, " %")),
            *(_cell(row.tunnel.milliseconds), _cell(row.direct.milliseconds)),
            *(_cell(row.tunnel.cpu_seconds), _cell(row.direct.cpu_seconds)),
        )
        for row in rows
    ]
    output.table(here, rows, HEADINGS, cells, spare=HEADINGS[:-3:-1])
    if lost := [f"{row.sender} to {row.receiver}" for row in rows if row.tunnel.mbits is None]:
        raise SmallkubeError(f"nothing came through the tunnel: {', '.join(lost)}", hint="inv net.check")


def _cell(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:g}{unit}"
