"""What the API server says of the nodes, and the machines of themselves, in one table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from smallkube.deploy.inspect import State
from smallkube.errors import SmallkubeError
from smallkube.inventory import Inventory, Node
from smallkube.nodes.machine import Machine
from smallkube.nodes.members import KUBECTL
from smallkube.remote.command import Command
from smallkube.secrets import certificates, policy
from smallkube.secrets.store import Keys

FRESH_SECONDS = 180
"""WireGuard makes a new handshake every two minutes when there is something to send (wireguard.com/protocol)."""
LEASE_SECONDS = 40
EXPIRES_DAYS = 60


@dataclass(frozen=True)
class Api:
    """``version`` is "" when the API server does not answer. ``nodes`` and ``leases`` by name in the cluster."""

    version: str
    nodes: Mapping[str, Mapping[str, Any]]
    leases: Mapping[str, datetime]


@dataclass(frozen=True)
class Row:
    """One node. ``ready``: "Ready", "NotReady", "cordoned", "missing", or "?" when nobody could be asked."""

    node: str
    role: str
    kubelet: str
    ready: str
    lease: str
    tunnel: str
    system: str
    problems: tuple[str, ...]


def read_api(primary: Machine) -> Api:
    """What the API server says; of one that does not answer, nothing."""
    try:
        version = json.loads(_get(primary, "--raw", "/version"))["gitVersion"]
        nodes = json.loads(_get(primary, "nodes", "--output=json"))["items"]
        leases = json.loads(_get(primary, "leases", "--namespace=kube-node-lease", "--output=json"))["items"]
    except (SmallkubeError, ValueError, KeyError):
        return Api("", {}, {})
    times = {
        item["metadata"]["name"]: datetime.fromisoformat(item["spec"]["renewTime"])
        for item in leases
        if "renewTime" in item["spec"]
    }
    return Api(version, {item["metadata"]["name"]: item for item in nodes}, times)


def _get(primary: Machine, *words: str) -> str:
    return primary.must(Command(("timeout", "20", *KUBECTL, "--request-timeout=10s", "get", *words), timeout=30)).text


def metrics(primary: Machine) -> str:
    """The API server's metrics; raises SmallkubeError."""
    return _get(primary, "--raw", "/metrics")


def row(inventory: Inventory, node: Node, state: State | SmallkubeError, api: Api, digest: str) -> Row:
    """One node's line, and what is wrong with it."""
    host = inventory.addressing.node_host(node.index)
    item = api.nodes.get(host)
    problems = []
    kubelet, ready, lease = "", "?", ""
    if api.version:
        ready = _ready(item)
        kubelet = item["status"]["nodeInfo"]["kubeletVersion"] if item else ""
        lease = _age(api.leases.get(host), state)
        if ready not in ("Ready", "cordoned"):
            problems.append(f"is {ready}")
    if isinstance(state, SmallkubeError):
        return Row(node.name, node.role, kubelet, ready, lease, "?", "?", (*problems, state.message))
    others = len(inventory.nodes) - 1
    fresh = sum(age is not None and age < FRESH_SECONDS for age in state.handshakes.values())
    if fresh < others:
        problems.append(f"has fresh handshakes with {fresh} of {others} peers")
    current = state.last_deploy.get("digest") == digest
    deployed = str(state.last_deploy.get("digest", "none"))[:12]
    return Row(
        node.name,
        node.role,
        kubelet,
        ready,
        lease,
        f"{fresh} of {others}",
        f"{deployed}{'' if current else ' (differs from here)'}",
        tuple(problems),
    )


def _ready(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "missing"
    conditions = {entry["type"]: entry["status"] for entry in item["status"].get("conditions", ())}
    if conditions.get("Ready") != "True":
        return "NotReady"
    return "cordoned" if item["spec"].get("unschedulable") else "Ready"


def _age(renewed: datetime | None, state: State | SmallkubeError) -> str:
    if renewed is None:
        return "none"
    now = datetime.now(UTC) if isinstance(state, SmallkubeError) else datetime.fromtimestamp(state.clock, UTC)
    return f"{max(0, (now - renewed).total_seconds()):.0f} s"


def expiries(inventory: Inventory, keys: Keys, now: datetime) -> list[tuple[str, int]]:
    """Certificate file → days that it is valid still, the first to expire first; raises SmallkubeError."""
    wanted: Sequence[str] = policy.public_files(inventory)
    found = [
        (file, (certificates.load(keys.certificates[file], file).not_valid_after_utc - now).days)
        for file in wanted
        if file in keys.certificates
    ]
    return sorted(found, key=lambda pair: pair[1])


def expiring(found: Sequence[tuple[str, int]]) -> Iterator[str]:
    """What deserves attention."""
    for file, days in found:
        if days < EXPIRES_DAYS:
            yield f"{file} expires in {days} days (inv keys.rotate-certificates)"
