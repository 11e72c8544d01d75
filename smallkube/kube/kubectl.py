"""What the API server says, asked by kubectl on the primary as root."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from smallkube.core.errors import MALFORMED, SmallkubeError
from smallkube.kube.members import KUBECTL, Member, parse_member
from smallkube.remote import fleet
from smallkube.remote.host import Command, Host, Result

_LEASE_SECONDS = 40
"""What a kubelet asks for by default (nodeLeaseDurationSeconds, KubeletConfiguration v1beta1)."""
_FAILING = re.compile(r"\[-\]([\w./-]+)")


@dataclass(frozen=True)
class Lease:
    """A kubelet's sign of life, which is to be renewed within ``seconds``."""

    renewed: datetime
    seconds: int


@dataclass(frozen=True)
class Api:
    """``version`` is "" when the API server does not answer. ``failing``: what /readyz finds fault with.

    ``members`` and ``leases`` by name in the cluster; ``members`` is None when they can't be listed.
    """

    version: str = ""
    failing: tuple[str, ...] = ()
    members: Mapping[str, Member] | None = None
    leases: Mapping[str, Lease] = field(default_factory=dict)


def read(primary: Host) -> Api:
    """Everything that can be had; what does not answer is left out. Raises SmallkubeError without a connection."""
    version, ready, nodes, leases = fleet.together(
        lambda: _get(primary, "--raw", "/version"),
        lambda: _get(primary, "--raw", "/readyz?verbose"),
        lambda: _get(primary, "nodes", "--output=json"),
        lambda: _get(primary, "leases", "--namespace=kube-node-lease", "--output=json"),
    )
    found = Api()
    with suppress(*MALFORMED):
        found = Api(version=str(_json(version)["gitVersion"]))
        found = replace(found, failing=parse_ready(ready))
        items = _json(nodes)["items"]
        found = replace(found, members={str(item["metadata"]["name"]): parse_member(item) for item in items})
        found = replace(found, leases=parse_leases(_json(leases)["items"]))
    return found


def metrics(primary: Host) -> str:
    """The API server's metrics; raises SmallkubeError."""
    reply = _get(primary, "--raw", "/metrics")
    if not reply.ok:
        raise SmallkubeError(f"the API server does not show its metrics: {reply.last_line}", where=primary.where)
    return reply.text


def _get(primary: Host, *words: str) -> Result:
    return primary.run(Command(("timeout", "20", *KUBECTL, "--request-timeout=10s", "get", *words), timeout=30))


def _json(reply: Result) -> Any:
    """None without an answer: kubectl then fails, but may print an empty list all the same."""
    return json.loads(reply.text) if reply.ok else None


def parse_ready(reply: Result) -> tuple[str, ...]:
    """The checks that /readyz?verbose marks with [-]; the last line of the answer when it fails without naming any."""
    if reply.ok:
        return ()
    return tuple(dict.fromkeys(_FAILING.findall(reply.text + reply.stderr))) or (reply.last_line,)


def parse_leases(items: Sequence[Mapping[str, Any]]) -> dict[str, Lease]:
    """From Leases (coordination.k8s.io/v1) in JSON; those never renewed are left out."""
    return {
        str(item["metadata"]["name"]): Lease(
            datetime.fromisoformat(item["spec"]["renewTime"]).astimezone(UTC),
            int(item["spec"].get("leaseDurationSeconds", _LEASE_SECONDS)),
        )
        for item in items
        if item.get("spec", {}).get("renewTime")
    }
