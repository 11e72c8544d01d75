"""Reading the host keys that the nodes' SSH servers show.

What a network answers is no proof: only the comparison of fingerprints by an operator makes a key trusted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import paramiko

from smallkube.core.errors import MALFORMED, SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.openssh import Route
from smallkube.remote.ssh import UNEXPECTED
from smallkube.secrets.host_keys import ED25519, HostKey, read_host_key, shared


class Scan(StrEnum):
    """How the key that a node showed compares with the stored one."""

    NEW = "new"
    SAME = "unchanged"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True)
class Scanned:
    """What one node showed and what is stored of it; no ``key`` and the ``reason`` in words when it failed."""

    node: Node
    key: HostKey | None = None
    stored: HostKey | None = None
    reason: str = ""

    @property
    def state(self) -> Scan:
        if not (self.key and self.stored):
            return Scan.NEW if self.key else Scan.FAILED
        return Scan.SAME if self.key == self.stored else Scan.CHANGED


def scan(
    workspace: Workspace, nodes: Sequence[Node], timeout: float, progress: Callable[[str, str], None]
) -> tuple[Scanned, ...]:
    """Ask all ``nodes`` at once; ``timeout`` in seconds each. ``progress(node, outcome)`` is called as they answer.

    A node that fails is reported in its row; so is one with the host key of another: each of them could read the
    other's secrets. Raises UsageError when there is no ssh, or it refuses its configuration.
    """

    def one(node: Node) -> Scanned:
        route = Route.to(node)
        try:
            row = Scanned(node, _ask(route, timeout), read_host_key(workspace, node.name))
        except SmallkubeError as error:
            row = Scanned(node, reason=str(error))
        progress(node.name, row.state)
        return row

    rows = fleet.parallel(nodes, one)
    owners = shared({row.node.name: row.key for row in rows if row.key})
    reason = "has the same host key as {} (a cloned machine?); make new SSH host keys on it"
    return tuple(
        Scanned(row.node, reason=reason.format(owners[row.node.name])) if row.node.name in owners else row
        for row in rows
    )


def _ask(route: Route, timeout: float) -> HostKey:
    """The ed25519 key that the machine signs the key exchange with; no user is authenticated."""
    try:
        wire = route.dial(timeout)
    except OSError as error:
        raise SmallkubeError(f"can't be reached: {error.strerror or error}", where=str(route)) from error
    transport = paramiko.Transport(wire.socket)
    try:
        transport.banner_timeout = timeout
        transport.get_security_options().key_types = (ED25519,)
        transport.start_client(timeout=timeout)
        return HostKey(transport.get_remote_server_key().asbytes())
    except (paramiko.SSHException, OSError, EOFError) as error:
        reason = wire.reason or str(error) or "connection closed"
        raise SmallkubeError(f"no {ED25519} host key: {reason}", where=str(route)) from error
    except MALFORMED as error:
        raise SmallkubeError(f"no {ED25519} host key: {UNEXPECTED} ({error})", where=str(route)) from error
    finally:
        transport.close()
        wire.close()


def files(rows: Iterable[Scanned]) -> dict[str, bytes]:
    """The keys of ``rows`` as files in keys/: ``hosts/NODE.pub`` → content."""
    return {f"hosts/{row.node.name}.pub": f"{row.key} {row.node.name}\n".encode() for row in rows if row.key}
