"""The state of the whole cluster: nodes, API server, etcd, certificates, backups; and their problems."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from smallkube.core.checks import Check, failed
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks
from smallkube.deploy.facts import HostFacts
from smallkube.etcd import catalog
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import kubectl as api_server
from smallkube.kube.kubectl import Api
from smallkube.nix import bundle
from smallkube.operations import cluster_facts
from smallkube.operations.cluster_facts import KUBELET, NodeState
from smallkube.remote.host import Connect
from smallkube.secrets import certificates, peers, policy
from smallkube.secrets.transaction import Keys, read_keys

_ETCD_SECONDS = 10
_UNKNOWN = "?"


@dataclass(frozen=True)
class Row:
    """One node. "?" stands for what could not be asked.

    ``ready``: "Ready", "NotReady", "missing" or "?". ``lease_seconds``: since the kubelet renewed its lease.
    ``tunnel``: with how many of its peers it has fresh handshakes. ``deployed``: start of the bundle's digest, or
    "none"; ``drift``: in what it differs from the workspace.
    """

    node: str
    role: str
    kubelet: str
    kernel: str = _UNKNOWN
    generation: str = _UNKNOWN
    ready: str = _UNKNOWN
    cordoned: bool = False
    lease_seconds: int | None = None
    tunnel: str = _UNKNOWN
    deployed: str = _UNKNOWN
    drift: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """``api`` and ``etcd`` are None when they could not be asked.

    ``certificates``: file in keys/ → days until it expires. ``problems``: one line for each.
    """

    rows: tuple[Row, ...]
    api: Api | None
    etcd: etcd_status.Status | None
    certificates: Mapping[str, int]
    backup: Record | None
    problems: tuple[str, ...]


def read(cluster: Cluster, connect: Connect, now: datetime) -> Status:
    """Ask every machine, then API server and etcd; what can't be asked is a problem, and the rest is reported.

    Raises SmallkubeError when the workspace itself can't be read.
    """
    inventory, digest = cluster.inventory, bundle.assemble(cluster).digest
    keys = peers.public_keys(peers.read(cluster.workspace))
    states = cluster_facts.node_states(inventory, connect, digest)
    api, etcd, problems = _control_plane(inventory, connect, states[inventory.primary.name])
    rows = tuple(row(inventory, node, states[node.name], api or Api(), digest, keys) for node in inventory.nodes)
    problems += [f"{each.node}: {text}" for each in rows for text in each.problems]
    known = {inventory.addressing.node_host(node.index) for node in inventory.nodes}
    unknown = {*((api and api.members) or ())} - known
    problems += [f"{name} is a node of the cluster, but not in inventory.yaml" for name in unknown]
    days, faults = expiries(inventory, read_keys(cluster.workspace), now)
    backup = catalog.read(catalog.folder_of(cluster)).newest
    problems += [*faults, *etcd_status.remarks(backup, now)]
    return Status(rows, api, etcd, days, backup, tuple(problems))


def _control_plane(
    inventory: Inventory, connect: Connect, found: NodeState | SmallkubeError
) -> tuple[Api | None, etcd_status.Status | None, list[str]]:
    if isinstance(found, SmallkubeError):
        return None, None, [f"neither the API server nor etcd can be asked without {inventory.primary.name}"]
    api, problems = None, []
    try:
        with connect(inventory.primary) as primary:
            api = api_server.read(primary)
            problems = list(_api_problems(api))
            etcd = etcd_status.read(primary, _ETCD_SECONDS)
    except SmallkubeError as error:
        return api, None, [*problems, str(error)]
    return api, etcd, [*problems, *etcd_status.problems(etcd)]


def _api_problems(api: Api) -> Iterator[str]:
    if not api.version:
        yield "the API server does not answer"
        return
    if api.failing:
        yield f"the API server is not ready: {', '.join(api.failing)}"
    if api.members is None:
        yield "the API server does not list the nodes"


def row(
    inventory: Inventory,
    node: Node,
    found: NodeState | SmallkubeError,
    api: Api,
    digest: str,
    keys: Mapping[int, str],
) -> Row:
    """One node's line. ``digest``: of the workspace's bundle; ``keys``: index → public key in WireGuard."""
    host = inventory.addressing.node_host(node.index)
    member, lease = (api.members or {}).get(host), api.leases.get(host)
    ready = "Ready" if member and member.ready else "NotReady" if member else "missing"
    clock = datetime.now(UTC).timestamp() if isinstance(found, SmallkubeError) else found.facts.clock
    age = max(0, int(clock - lease.renewed.timestamp())) if lease else None
    problems = [] if api.members is None or ready == "Ready" else [f"is {ready}"]
    if lease and age is not None and age > lease.seconds:
        problems.append(f"its lease was renewed {age} s ago, which is due every {lease.seconds} s at least")
    if member and member.cordoned and member.marked:
        problems.append(f"was left cordoned by a drain that did not end (inv nodes.uncordon --node {node.name})")
    known = Row(
        node=node.name,
        role=node.role,
        kubelet=member.kubelet if member else "",
        ready=_UNKNOWN if api.members is None else ready,
        cordoned=bool(member and member.cordoned),
        lease_seconds=age,
    )
    if isinstance(found, SmallkubeError):
        return replace(known, problems=(*problems, found.message))
    facts, running = found.facts, found.running
    faults = failed(_checks(inventory, node, facts, digest, keys))
    return replace(
        known,
        kubelet=running.versions.get(KUBELET) or known.kubelet,
        kernel=running.kernel,
        generation=facts.generation,
        tunnel=_tunnel(inventory, node, facts, keys),
        deployed=facts.last_deploy.digest[:12] if facts.last_deploy else "none",
        drift=next((check.detail for check in faults if check.check == "system"), ""),
        problems=(*problems, *(f"{check.check}: {check.detail}" for check in faults)),
    )


def _checks(inventory: Inventory, node: Node, facts: HostFacts, digest: str, keys: Mapping[int, str]) -> list[Check]:
    """The checks of deploy.status and net.check; etcd is checked apart."""
    services = (check for check in checks.services(node, facts) if check.check != "etcd")
    return [checks.system(node, facts, digest), *services, *checks.network(inventory, node, facts, keys)]


def _tunnel(inventory: Inventory, node: Node, facts: HostFacts, keys: Mapping[int, str]) -> str:
    others = [other for other in inventory.nodes if other != node]
    ages = [facts.handshake_age(keys.get(other.index, "")) for other in others]
    fresh = sum(age is not None and age <= checks.MAX_HANDSHAKE_SECONDS for age in ages)
    return f"{fresh} of {len(others)}"


def expiries(inventory: Inventory, keys: Keys, now: datetime) -> tuple[dict[str, int], list[str]]:
    """Certificate in keys/ → days until it expires; and problems."""
    days: dict[str, int] = {}
    problems = []
    for file in policy.public_files(inventory):
        if file not in keys.certificates:
            problems.append(f"keys/{file} is missing (inv keys.generate)")
            continue
        try:
            left = certificates.load(keys.certificates[file], f"keys/{file}").not_valid_after_utc - now
        except SmallkubeError as error:
            problems.append(str(error))
            continue
        days[file] = left.days
        if left < certificates.WARNING:
            what = f"expires in {left.days} days" if left.days >= 0 else f"expired {-left.days} days ago"
            problems.append(f"keys/{file} {what} (inv keys.rotate-certificates)")
    return days, problems
