"""What the machines say of certificates: which pods trust one, and who shows those that are in keys/."""

from collections.abc import Mapping
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.members import KUBECTL
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Connect
from smallkube.secrets import policy

_SCRIPT = Path(__file__).with_name("scripts") / "authorities.sh"
_CURL = ("curl", "--silent", "--show-error", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}")


def without(inventory: Inventory, connect: Connect, pem: bytes) -> list[str]:
    """Nodes that have pods whose ca.crt lacks the certificate ``pem``, with their number; or why one can't be asked."""

    def ask(node: Node) -> int:
        argv = ("/bin/sh", "-c", _SCRIPT.read_text(), "authorities")
        with connect(node) as machine:
            return len(machine.run_checked(Command(argv, stdin=pem, title="pods' authorities")).text.splitlines())

    outcomes = fleet.run([inventory.nodes], ask)
    waiting = [f"{one.value} pods on {one.node.name}" for one in outcomes if one.value]
    return waiting + [f"{one.node.name} ({one.error.message})" for one in outcomes if one.error]


def mismatched_certificates(inventory: Inventory, connect: Connect, certificates: Mapping[str, bytes]) -> list[str]:
    """Who can't be reached by exactly the certificates in keys/ (file → PEM), in words; none, when all can.

    Every node asks the API server; the API server asks every kubelet, which each check the other.
    """
    pinned = certificates.get(policy.API_CERTIFICATE) if inventory.cluster.api.tls == "pinned" else None
    url = f"https://{inventory.addressing.api_internal_host}:{inventory.cluster.api.port}/api"

    def ask(node: Node) -> None:
        with connect(node) as machine:
            trust = ("--cacert", "/dev/stdin") if pinned else ("--insecure",)
            done = machine.run(Command((*_CURL, *trust, url), stdin=pinned, timeout=30))
        if not done.ok:
            reply = next((line for line in done.stderr.splitlines() if line.startswith("curl: (")), done.last_line)
            raise SmallkubeError(f"{node.name} to the API server: {reply}")

    found = [one.error.message for one in fleet.run([inventory.nodes], ask) if one.error]
    if found:
        return found
    with connect(inventory.primary) as primary:
        for node in inventory.nodes:
            path = f"/api/v1/nodes/{inventory.addressing.node_host(node.index)}/proxy/healthz"
            done = primary.run(Command((*KUBECTL, "--request-timeout=10s", "get", "--raw", path), timeout=30))
            if not done.ok:
                found.append(f"the API server to {node.name}'s kubelet: {done.last_line}")
    return found
