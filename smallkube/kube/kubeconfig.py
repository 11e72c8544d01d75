"""The administrator's kubeconfig, from what is in keys/. Pure. Format: kubernetes.io/docs/reference/config-api."""

import base64
import ipaddress
import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from smallkube.core.errors import UsageError
from smallkube.inventory.addressing import is_address
from smallkube.inventory.models import Inventory

_HOST_AND_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?")


@dataclass(frozen=True)
class ApiEndpoint:
    """Where the API server is reached; ``name`` is what to expect in its certificate, "" for the host itself."""

    host: str
    port: int
    name: str = ""

    @property
    def url(self) -> str:
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def endpoint(inventory: Inventory, via: str, names: Collection[str]) -> ApiEndpoint:
    """What ``via`` stands for: "external" (api.external_host), "tunnel" (the primary's address there), HOST[:PORT].

    ``names``: what the certificate is for, DNS names and addresses. Raises UsageError.
    """
    api, plan = inventory.cluster.api, inventory.addressing
    known = {"external": api.external_host, "tunnel": plan.host6(inventory.primary.index)}
    host, port = (known[via], api.port) if via in known else _split(via, api.port)
    plain = str(ipaddress.ip_address(host)) if is_address(host) else host.lower()  # as certificates have it
    if plain in names or not names:
        return ApiEndpoint(host, port)
    if plan.api_internal_host not in names:
        hint = "inv keys.rotate-certificates"
        raise UsageError(
            f"is neither for {host} nor for {plan.api_internal_host}", where="keys/apiserver.crt", hint=hint
        )
    return ApiEndpoint(host, port, plan.api_internal_host)


def _split(via: str, port: int) -> tuple[str, int]:
    if is_address(via):
        return via, port
    found = _HOST_AND_PORT.fullmatch(via)
    if not found or (found[1] and not is_address(found[1])) or not 0 < int(found[3] or port) < 65536:
        raise UsageError(f"--via {via!r}", hint="expected external, tunnel, or HOST[:PORT]")
    return found[1] or found[2], int(found[3] or port)


def render(inventory: Inventory, token: bytes, certificate: bytes | None, to: ApiEndpoint) -> str:
    """The file (JSON is YAML); without ``certificate`` the server's is not checked."""
    trust: dict[str, object] = {"insecure-skip-tls-verify": True}
    if certificate is not None:
        trust = {"certificate-authority-data": base64.b64encode(certificate).decode()}
        trust |= {"tls-server-name": to.name} if to.name else {}
    called = inventory.cluster.name
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": called, "cluster": {"server": to.url, **trust}}],
        "users": [{"name": _user(called), "user": {"token": token.decode().strip()}}],
        "contexts": [{"name": called, "context": {"cluster": called, "user": _user(called)}}],
        "current-context": called,
    }
    return json.dumps(document, indent=2) + "\n"


def _user(cluster: str) -> str:
    return f"{cluster}-root"


def is_ours(text: str, cluster: str) -> bool:
    """Whether this is a file that ``render`` made for ``cluster``, without additions."""
    if not text.strip():
        return True
    try:
        found = json.loads(text)
        names = {part: [entry["name"] for entry in found[part]] for part in ("clusters", "users", "contexts")}
    except (ValueError, KeyError, TypeError):
        return False
    return names == {"clusters": [cluster], "users": [_user(cluster)], "contexts": [cluster]}
