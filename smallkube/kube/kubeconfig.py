"""Kubeconfigs of root and of people, from what is in keys/. Pure.

Format: kubernetes.io/docs/reference/config-api/kubeconfig.v1.
"""

import base64
import ipaddress
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from smallkube.core.errors import MALFORMED, UsageError
from smallkube.inventory.addressing import is_address
from smallkube.inventory.models import Inventory

_KINDS = ("clusters", "users", "contexts")
_HOST_AND_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?")


class _Loader(yaml.SafeLoader):
    """Leaves dates as the text that they are."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


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


@dataclass(frozen=True)
class Credential:
    """Who uses the file, and by what: members of ``user`` in a kubeconfig (AuthInfo)."""

    name: str
    user: Mapping[str, str] = field(repr=False)

    @classmethod
    def by_token(cls, name: str, token: bytes) -> "Credential":
        return cls(name, {"token": token.decode().strip()})

    @classmethod
    def by_certificate(cls, name: str, certificate: bytes, key: bytes | str) -> "Credential":
        """``key``: itself in PEM, or the path where kubectl finds it (from the kubeconfig's folder, if relative)."""
        shown = {"client-certificate-data": base64.b64encode(certificate).decode()}
        if isinstance(key, str):
            return cls(name, {**shown, "client-key": key})
        return cls(name, {**shown, "client-key-data": base64.b64encode(key).decode()})


def render(inventory: Inventory, who: Credential, certificate: bytes | None, to: ApiEndpoint, context: str) -> str:
    """The file (JSON is YAML); without ``certificate`` the server's is not checked."""
    document = {"apiVersion": "v1", "kind": "Config", **_entries(inventory, who, certificate, to, context)}
    return json.dumps({**document, "current-context": context}, indent=2) + "\n"


def _entries(
    inventory: Inventory, who: Credential, certificate: bytes | None, to: ApiEndpoint, context: str
) -> dict[str, list[dict[str, Any]]]:
    """One of each kind; the cluster is called as the context, so that several to one cluster don't share it."""
    trust: dict[str, object] = {"insecure-skip-tls-verify": True}
    if certificate is not None:
        trust = {"certificate-authority-data": base64.b64encode(certificate).decode()}
        trust |= {"tls-server-name": to.name} if to.name else {}
    user = f"{inventory.cluster.name}-{who.name}"
    return {
        "clusters": [{"name": context, "cluster": {"server": to.url, **trust}}],
        "users": [{"name": user, "user": dict(who.user)}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
    }


def merge(text: str, new: str, *, force: bool, where: str) -> str:
    """The kubeconfig ``text`` with the entries of ``new`` in place of those of the same names; all else stays.

    The current context stays too, if there is one. Raises UsageError when ``text`` is no kubeconfig, or has entries of
    these names that ``render`` did not make, unless ``force``.
    """
    ours, found = json.loads(new), _parsed(text, where)
    context, user = ours["current-context"], ours["users"][0]["name"]
    taken = [*_named(found, "contexts", context), *_named(found, "clusters", context)]
    made = any(each.get("context", {}).get("user") == user for each in taken)
    if taken and not made and not force:
        raise UsageError(f"has another context or cluster {context}", where=where, hint="--context another, or --force")
    for kind in _KINDS:
        (entry,) = ours[kind]
        old = found.get(kind) or []
        at = next((number for number, each in enumerate(old) if each["name"] == entry["name"]), len(old))
        found[kind] = [*old[:at], entry, *(each for each in old[at + 1 :] if each["name"] != entry["name"])]
    found["current-context"] = found.get("current-context") or context
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **found}, sort_keys=False, allow_unicode=True)


def _named(document: Mapping[str, Any], kind: str, name: str) -> list[dict[str, Any]]:
    return [each for each in document.get(kind) or () if each["name"] == name]


def _parsed(text: str, where: str) -> dict[str, Any]:
    """A kubeconfig as kubectl takes it. Raises UsageError."""
    try:
        found = {} if not text.strip() else yaml.load(text, _Loader)
        known = found.get("kind", "Config") == "Config" and found.get("apiVersion", "v1") == "v1"
        entries = [each for kind in _KINDS for each in found.get(kind) or ()]
        if not known or not all(isinstance(each["name"], str) for each in entries):
            raise TypeError
        if not all(isinstance(each.get("context", {}), dict) for each in found.get("contexts") or ()):
            raise TypeError
    except (yaml.YAMLError, *MALFORMED):
        raise UsageError("is no kubeconfig; nothing was changed", where=where, hint="name another by --out") from None
    return found


def is_ours(text: str, cluster: str, user: str) -> bool:
    """Whether this is a file that ``render`` made for this user of ``cluster``, without additions."""
    if not text.strip():
        return True
    try:
        found = json.loads(text)
        clusters, users, contexts = ([entry["name"] for entry in found[part]] for part in _KINDS)
    except (ValueError, KeyError, TypeError):
        return False
    return users == [f"{cluster}-{user}"] and clusters == contexts and len(contexts) == 1
