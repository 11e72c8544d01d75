"""The state of the whole cluster: nodes, API server, etcd, certificates, backups; and what of it is not well."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from smallkube.remote.ssh import SshHost
from smallkube.secrets import certificates, peers, policy
from smallkube.secrets.store import Keys, read_keys

_ETCD_SECONDS = 10
_UNKNOWN = "?"


@dataclass(frozen=True)
class Row:
    """One node. "?" stands for what nobody could be asked.

    ``ready``: "Ready", "NotReady", "missing" or "?". ``lease_seconds``: since the kubelet's last sign of life.
    ``tunnel``: with how many of its peers it has fresh handshakes. ``deployed``: start of the bundle's digest, or
    "none"; ``drift``: in what it differs from the workspace.
    """

    node: str
    role: str
    kubelet: str
    kernel: str
    generation: str
    ready: str
    cordoned: bool
    lease_seconds: int | None
    tunnel: str
    deployed: str
    drift: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """``api`` and ``etcd`` are None when nothing could be learnt of them.

    ``certificates``: file in keys/ → days that it is valid still. ``problems``: one line for each.
    """

    rows: tuple[Row, ...]
    api: Api | None
    etcd: etcd_status.Status | None
    certificates: Mapping[str, int]
    backup: Record | None
    problems: tuple[str, ...]


def read(cluster: Cluster, now: datetime) -> Status:
    """Ask every machine, then API server and etcd; what can't be asked is a problem, and the rest is told.

    Raises SmallkubeError when the workspace itself can't be read.
    """
    digest = bundle.assemble(cluster).digest
    keys = peers.public_keys(peers.read(cluster.workspace))
    states = cluster_facts.node_states(cluster, digest)
    api, etcd, problems = _control_plane(cluster, states[cluster.inventory.primary.name])
    rows = tuple(
        row(cluster.inventory, node, states[node.name], api or Api(), digest, keys) for node in cluster.inventory.nodes
    )
    problems += [f"{each.node}: {text}" for each in rows for text in each.problems]
    problems += _strangers(cluster.inventory, api or Api())
    days, faults = expiries(cluster.inventory, read_keys(cluster.workspace), now)
    backup = catalog.read(catalog.folder_of(cluster)).newest
    problems += [*faults, *etcd_status.remarks(backup, now)]
    return Status(rows, api, etcd, days, backup, tuple(problems))


def _control_plane(
    cluster: Cluster, found: NodeState | SmallkubeError
) -> tuple[Api | None, etcd_status.Status | None, list[str]]:
    name = cluster.inventory.primary.name
    if isinstance(found, SmallkubeError):
        return None, None, [f"neither the API server nor etcd can be asked without {name}"]
    try:
        with SshHost(cluster.workspace, cluster.inventory.primary) as primary:
            api = api_server.read(primary)
            problems = list(_api_problems(api))
            try:
                etcd = etcd_status.read(primary, _ETCD_SECONDS)
            except SmallkubeError as error:
                return api, None, [*problems, str(error)]
    except SmallkubeError as error:
        return None, None, [str(error)]
    return api, etcd, [*problems, *etcd_status.problems(etcd)]


def _api_problems(api: Api) -> Iterator[str]:
    if not api.version:
        yield "the API server does not answer"
        return
    if api.failing:
        yield f"the API server is not ready: {', '.join(api.failing)}"
    if api.members is None:
        yield "the API server does not list the nodes"


def _strangers(inventory: Inventory, api: Api) -> Iterator[str]:
    known = {inventory.addressing.node_host(node.index) for node in inventory.nodes}
    yield from (
        f"{name} is a node of the cluster, but not in inventory.yaml" for name in {*(api.members or ())} - known
    )


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
    member = (api.members or {}).get(host)
    ready = _UNKNOWN if api.members is None else "missing"
    if member:
        ready = "Ready" if member.ready else "NotReady"
    clock = datetime.now(UTC).timestamp() if isinstance(found, SmallkubeError) else found.facts.clock
    lease = api.leases.get(host)
    age = max(0, int(clock - lease.renewed.timestamp())) if lease else None
    problems = [f"is {ready}"] if ready in ("NotReady", "missing") else []
    if lease and age is not None and age > lease.seconds:
        problems.append(f"its lease was renewed {age} s ago, which is due every {lease.seconds} s at least")
    if member and member.cordoned and member.marked:
        problems.append(f"was left cordoned by a drain that did not end (inv nodes.uncordon --node {node.name})")
    known = (node.name, node.role)
    cordoned = bool(member and member.cordoned)
    reported = member.kubelet if member else ""
    if isinstance(found, SmallkubeError):
        seen = (_UNKNOWN, _UNKNOWN, "")
        problems.append(found.message)
        return Row(*known, reported, _UNKNOWN, _UNKNOWN, ready, cordoned, age, *seen, tuple(problems))
    facts, running = found.facts, found.running
    faults = failed(_checks(inventory, node, facts, digest, keys))
    problems += [f"{check.check}: {check.detail}" for check in faults]
    drift = next((check.detail for check in faults if check.check == "system"), "")
    deployed = facts.last_deploy.digest[:12] if facts.last_deploy else "none"
    seen = (_tunnel(inventory, node, facts, keys), deployed, drift)
    kubelet = running.versions.get(KUBELET) or reported
    return Row(*known, kubelet, running.kernel, facts.generation, ready, cordoned, age, *seen, tuple(problems))


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
    """Certificate in keys/ → days that it is valid still; and which deserve attention."""
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
