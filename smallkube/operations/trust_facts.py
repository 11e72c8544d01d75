"""What the machines say of certificates and of the keys that sign tokens: who trusts, shows, accepts and has which."""

import base64
import hashlib
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallkube.inventory.models import Inventory
from smallkube.kube.members import KUBECTL
from smallkube.operations.machines import answer, ask_all, script
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Connect, Host
from smallkube.secrets import certificates, policy

_CURL = ("curl", "--silent", "--show-error", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}")
_SCRIPT_SECONDS = 120


def _get(path: str) -> Command:
    return Command((*KUBECTL, "--request-timeout=10s", "get", "--raw", path), timeout=30)


def pods_without(inventory: Inventory, connect: Connect, pem: bytes) -> list[str]:
    """Nodes that have pods whose ca.crt lacks the certificate ``pem``, with their number; or why one can't be asked."""
    command = script("authorities", stdin=pem)
    found, unreachable = ask_all(inventory.nodes, connect, lambda host: answer(host, command))
    return [*(f"{number} pods on {node}" for node, number in found.items() if number), *unreachable]


def mismatched_certificates(inventory: Inventory, connect: Connect, pinned: Mapping[str, bytes]) -> list[str]:
    """Where other certificates than those in keys/ (file → PEM) are used, in words; none, when all fit.

    By the policy: every node asks each URL; the API server asks each path, of a kubelet, and both check the other.
    """
    shown = [each for each in policy.certificates(inventory) if each.shown_at]
    urls = {each.shown_at: pinned[each.file] for each in shown if not each.shown_at.startswith("/")}

    def ask(host: Host) -> list[str]:
        replies = {
            url: host.run(Command((*_CURL, "--cacert", "/dev/stdin", url), stdin=pem, timeout=30))
            for url, pem in urls.items()
        }
        return [f"{host.node.name} to {url}: {_curl_error(reply)}" for url, reply in replies.items() if not reply.ok]

    found, unreachable = ask_all(inventory.nodes, connect, ask)
    if wrong := [*(text for texts in found.values() for text in texts), *unreachable]:
        return wrong
    with connect(inventory.primary) as primary:
        for path in (each.shown_at for each in shown if each.shown_at not in urls):
            reply = primary.run(_get(path))
            if not reply.ok:
                wrong.append(f"the API server to {path}: {reply.last_line}")
    return wrong


def _curl_error(reply: Result) -> str:
    return next((line for line in reply.stderr.splitlines() if line.startswith("curl: (")), reply.last_line)


def key_id(private: bytes, where: str) -> str:
    """The id that tokens signed with ``private`` (PEM) carry: SHA-256 of the public key (DER), base64url, unpadded.

    Source: k8s.io/kubernetes pkg/serviceaccount/jwt.go, ``keyIDFromPublicKey``.
    """
    public = certificates.parse_key(private, where).public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def key_id_of_token(head: str) -> str:
    """The id that a token carries, by its first part (base64url of JSON, RFC 7515); "" when it is no token's."""
    try:
        return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])
    except (ValueError, KeyError, TypeError):
        return ""


def accepted_keys(inventory: Inventory, connect: Connect) -> set[str]:
    """The ids of the keys whose tokens the API server accepts, as it publishes them (OpenID's JWKS)."""
    with connect(inventory.primary) as primary:
        found = answer(primary, _get("/openid/v1/jwks"))
        try:
            return {str(key["kid"]) for key in found["keys"]}
        except (KeyError, TypeError) as error:
            raise primary.error("unexpected output from the API server: not its keys") from error


def pods_with_tokens(inventory: Inventory, connect: Connect, kid: str) -> list[str]:
    """Nodes whose pods have tokens of the key ``kid``, with their number; or why one can't be asked."""

    def count(host: Host) -> int:
        heads = answer(host, script("signed", "pods", timeout=_SCRIPT_SECONDS))
        return sum(key_id_of_token(head) == kid for head in heads)

    found, unreachable = ask_all(inventory.nodes, connect, count)
    return [*(f"{number} tokens of pods on {node}" for node, number in found.items() if number), *unreachable]


def secrets_with_tokens(inventory: Inventory, connect: Connect, kid: str) -> list[str]:
    """Secrets (NAMESPACE/NAME) that hold a token of the key ``kid``; they are never renewed by themselves."""
    with connect(inventory.primary) as primary:
        heads = answer(primary, script("signed", "secrets", timeout=_SCRIPT_SECONDS))
    return [name for name, head in heads.items() if key_id_of_token(head) == kid]


def restart_kubelets(inventory: Inventory, connect: Connect) -> list[str]:
    """Restart every kubelet, which leaves the pods alone; "NODE (reason)" for each that was not."""
    argv = ("systemctl", "restart", "kubelet.service")
    command = Command(argv, timeout=180, title="restart the kubelet")
    return ask_all(inventory.nodes, connect, lambda host: host.run_checked(command))[1]
