"""Throughput and latency between nodes, inside and outside of the tunnel: what the encryption costs."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import permutations
from typing import Annotated

from pydantic import Field

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Inventory, Node
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import scripts
from smallkube.remote.host import Connect, Host

PORT = 5201
"""Open to the nodes that are measured, while they are; that of iperf3."""
_OVERHEAD = 15
"""Seconds that a path takes at most beside its transfer: ten pings, and a connection that is not answered."""
_TICKS = 100
"""USER_HZ of Linux on the architectures of NixOS: ticks of /proc/stat in a second (proc(5), sysconf(_SC_CLK_TCK))."""

Seconds = Annotated[float, Field(ge=0, lt=1000)]
Count = Annotated[int, Field(ge=0, lt=1 << 50)]


@dataclass(frozen=True)
class Transfer:
    """As bench.sh prints it; None is what could not be measured. ``ticks``: work of the receiver's processors."""

    milliseconds: Annotated[float, Field(ge=0, lt=1e6)] | None
    bytes: Count | None
    seconds: Seconds | None
    ticks: Count


@dataclass(frozen=True)
class Answer:
    """Both ways between two nodes."""

    tunnel: Transfer
    direct: Transfer


@dataclass(frozen=True)
class Figures:
    """Mbit/s of one TCP connection, milliseconds there and back, seconds of the receiver's processors for a GiB."""

    mbits: float | None
    milliseconds: float | None
    cpu_seconds: float | None

    @classmethod
    def of(cls, found: Transfer) -> "Figures":
        if not found.bytes or not found.seconds:
            return cls(None, found.milliseconds, None)
        cpu = found.ticks / _TICKS / found.bytes * (1 << 30)
        return cls(round(found.bytes * 8 / found.seconds / 1e6, 1), found.milliseconds, round(cpu, 2))


@dataclass(frozen=True)
class Row:
    """``cost``: the percentage of the direct throughput that is lost in the tunnel, None where one is missing."""

    sender: str
    receiver: str
    tunnel: Figures
    direct: Figures
    cost: float | None

    @classmethod
    def of(cls, sender: Node, receiver: Node, answer: Answer) -> "Row":
        tunnel, direct = Figures.of(answer.tunnel), Figures.of(answer.direct)
        cost = round(100 - 100 * tunnel.mbits / direct.mbits, 1) if tunnel.mbits and direct.mbits else None
        return cls(sender.name, receiver.name, tunnel, direct, cost)


def duration(nodes: Sequence[Node], seconds: int) -> int:
    """How many seconds measuring takes at most. Raises UsageError for less than two nodes."""
    if len(nodes) < 2:
        raise UsageError("there is no pair of nodes", hint="select two at least")
    return len(nodes) * (len(nodes) - 1) * 2 * (seconds + _OVERHEAD)


def run(
    inventory: Inventory, nodes: Sequence[Node], connect: Connect, seconds: int, step: Callable[[str], object]
) -> tuple[Row, ...]:
    """Measure each ordered pair of ``nodes``, one after the other, so that none disturbs another.

    Each node sends to all others at its port, in a unit of systemd that ends by itself when the connection is lost.
    Raises SmallkubeError when a node can't be reached or can't send.
    """
    own = [(_tunnel(inventory, node), node.peer_ip) for node in nodes]
    limit = str(duration(nodes, seconds) + 60)
    with ExitStack() as stack:
        hosts = {node.name: stack.enter_context(connect(node)) for node in nodes}
        for host, addresses in zip(hosts.values(), own, strict=True):
            others = [address for pair in own if pair != addresses for address in pair]
            scripts.push(host, "scripts", SCRIPTS.bundle)
            host.run_checked(SCRIPTS.pushed("bench", "serve", str(PORT), limit, *others, title="serve"))
            stack.callback(_stop, host)
        rows = []
        for sender, receiver in permutations(nodes, 2):
            step(f"{sender.name} to {receiver.name}")
            paths = (f"tunnel={_tunnel(inventory, sender)}", f"direct={sender.peer_ip}")
            command = SCRIPTS.pushed("bench", "measure", str(PORT), str(seconds), *paths, timeout=seconds + 60)
            rows.append(Row.of(sender, receiver, scripts.read(hosts[receiver.name], command, Answer)))
    return tuple(rows)


def _stop(host: Host) -> None:
    """Without a connection, it ends by itself."""
    with suppress(SmallkubeError):
        host.run(SCRIPTS.pushed("bench", "stop", title="stop serving"))


def _tunnel(inventory: Inventory, node: Node) -> str:
    """Its address in the tunnel, of the preferred family."""
    plan = inventory.addressing
    return plan.host6(node.index) if plan.prefer == "ipv6" else plan.host4(node.index)
