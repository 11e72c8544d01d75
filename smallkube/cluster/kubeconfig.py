"""The administrator's kubeconfig, from what is in keys/. Pure."""

import base64
import json

from smallkube.errors import UsageError
from smallkube.inventory import Inventory


def server(inventory: Inventory, via: str) -> tuple[str, str]:
    """The URL that ``via`` stands for, and the name to expect in the certificate when that is another ("" when not).

    ``via``: "external" (the inventory's external_host), "tunnel" (the primary's address in the tunnel), or HOST[:PORT].
    Raises UsageError.
    """
    api, plan = inventory.cluster.api, inventory.addressing
    if via == "external":
        return _url(api.external_host, api.port), ""
    if via == "tunnel":
        return _url(plan.host6(inventory.primary.index), api.port), ""
    host, colon, port = via.rpartition(":") if via.count(":") == 1 or "]" in via else (via, "", "")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise UsageError(f"--via {via}", hint="expected external, tunnel, or HOST[:PORT]")
    return _url(host.strip("[]"), int(port) if port else api.port), plan.api_internal_host


def _url(host: str, port: int) -> str:
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def render(inventory: Inventory, token: bytes, certificate: bytes | None, via: str) -> str:
    """The file (JSON is YAML); without ``certificate`` the server's is not checked. Raises UsageError."""
    url, name = server(inventory, via)
    trust: dict[str, object] = {"insecure-skip-tls-verify": True}
    if certificate is not None:
        trust = {"certificate-authority-data": base64.b64encode(certificate).decode()}
        trust |= {"tls-server-name": name} if name else {}
    called = inventory.cluster.name
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": called, "cluster": {"server": url, **trust}}],
        "users": [{"name": f"{called}-root", "user": {"token": token.decode().strip()}}],
        "contexts": [{"name": called, "context": {"cluster": called, "user": f"{called}-root"}}],
        "current-context": called,
    }
    return json.dumps(document, indent=2) + "\n"
