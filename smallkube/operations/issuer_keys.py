"""What the cluster says of the keys that sign tokens: which ones it accepts, and which tokens are from which."""

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.members import KUBECTL
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Connect
from smallkube.secrets import certificates

_SCRIPT = Path(__file__).with_name("scripts") / "signed.sh"
_KUBECONFIG = "/run/kubeconfig-root"


def key_id(private: bytes, where: str) -> str:
    """The id that tokens signed with ``private`` (PEM) carry: SHA-256 of the public key (DER), base64url, unpadded.

    Source: k8s.io/kubernetes pkg/serviceaccount/jwt.go, ``keyIDFromPublicKey``.
    """
    public = certificates.parse_key(private, where).public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def accepted(inventory: Inventory, connect: Connect) -> set[str]:
    """The ids of the keys whose tokens the API server accepts, as it publishes them (OpenID's JWKS)."""
    with connect(inventory.primary) as primary:
        reply = primary.run_checked(
            Command((*KUBECTL, "--request-timeout=10s", "get", "--raw", "/openid/v1/jwks"), timeout=30)
        )
    try:
        return {str(key["kid"]) for key in json.loads(reply.text)["keys"]}
    except (ValueError, KeyError, TypeError) as error:
        raise SmallkubeError("the API server's keys can't be understood", where=inventory.primary.name) from error


def pods_with(inventory: Inventory, connect: Connect, kid: str) -> list[str]:
    """Nodes whose pods have tokens of the key ``kid``, with their number; or why one can't be asked."""

    def ask(node: Node) -> int:
        with connect(node) as machine:
            return len(machine.run_checked(_script("pods", kid)).text.splitlines())

    outcomes = fleet.run([inventory.nodes], ask)
    found = [f"{one.value} tokens of pods on {one.node.name}" for one in outcomes if one.value]
    return found + [f"{one.node.name} ({one.error.message})" for one in outcomes if one.error]


def secrets_with(inventory: Inventory, connect: Connect, kid: str) -> list[str]:
    """Secrets (NAMESPACE/NAME) that hold a token of the key ``kid``; they are never renewed by themselves."""
    with connect(inventory.primary) as primary:
        return primary.run_checked(_script("secrets", kid, _KUBECONFIG)).text.splitlines()


def restart_kubelets(inventory: Inventory, connect: Connect) -> dict[str, str]:
    """Restart every kubelet, which leaves the pods alone; node → why it was not."""

    def restart(node: Node) -> None:
        with connect(node) as machine:
            machine.run_checked(
                Command(("systemctl", "restart", "kubelet.service"), timeout=180, title="restart the kubelet")
            )

    outcomes = fleet.run([inventory.nodes], restart)
    return {one.node.name: one.error.message for one in outcomes if one.error}


def _script(*arguments: str) -> Command:
    return Command(("/bin/sh", "-c", _SCRIPT.read_text(), "signed", *arguments), timeout=120, title="look for tokens")
