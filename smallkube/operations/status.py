"""The state of the whole cluster: nodes, API server, etcd, certificates, backups; and their problems."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks, facts
from smallkube.deploy.facts import HostFacts
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.kubectl import Api
from smallkube.nix import bundle, flake, lockfile
from smallkube.nix.bundle import Bundle
from smallkube.operations import cluster_facts, identities
from smallkube.operations.cluster_facts import KUBELET, Facts, Machine, Use
from smallkube.remote.host import Connect
from smallkube.secrets import certificates, peers, people, policy
from smallkube.secrets.transaction import Keys, read_keys, states

_UNKNOWN = "?"


@dataclass(frozen=True)
class Row:
    """One node. "?" stands for what could not be asked.

    ``ready``: "Ready", "NotReady", "missing" or "?". ``lease_seconds``: since the kubelet renewed its lease.
    ``tunnel``: with how many of its peers it has fresh handshakes. ``deployed``: start of the bundle's digest, or
    "none"; ``drift``: in what it differs from the workspace. ``uses``: service → what it uses, of those that run.
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
    uses: Mapping[str, Use] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """``api`` and ``etcd`` are None when they could not be asked.

    ``certificates``: file in keys/ → days until it expires. ``problems``: one line for each. ``warnings``: of people
    whose certificates expire; the cluster is healthy all the same.
    """

    rows: tuple[Row, ...]
    api: Api | None
    etcd: etcd_status.Status | None
    certificates: Mapping[str, int]
    backup: Record | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read(cluster: Cluster, connect: Connect, now: datetime) -> Status:
    """Ask every machine, API server and etcd; what can't be asked is a problem, and the rest is reported.

    Raises SmallkubeError when the workspace itself can't be read.
    """
    inventory, whole = cluster.inventory, bundle.assemble(cluster)
    found = cluster_facts.read(cluster, connect, lambda host: facts.of_host(host, inventory))
    return of_facts(cluster, connect, whole, found, now)


def of_facts(cluster: Cluster, connect: Connect, whole: Bundle, found: Facts[HostFacts], now: datetime) -> Status:
    """What ``read`` makes of the facts, of which the workspace's bundle is ``whole``; asks the primary for its keys."""
    inventory, digest = cluster.inventory, whole.digest
    keys = peers.public_keys(peers.read(cluster.workspace))
    rows = tuple(row(inventory, node, found.machines[node.name], found.api, digest, keys) for node in inventory.nodes)
    days, faults = expiries(inventory, read_keys(cluster.workspace), now)
    known = {inventory.addressing.node_host(node.index) for node in inventory.nodes}
    unknown_nodes = (found.api.members or {}).keys() - known
    problems = [
        *_control_plane_problems(inventory, found),
        *key_problems(cluster, connect, found),
        *(f"{each.node}: {text}" for each in rows for text in each.problems),
        *(f"{name} is a node of the cluster, but not in inventory.yaml" for name in unknown_nodes),
        *faults,
        *etcd_status.remarks(found.backup, now),
        *filter(None, [lockfile.complaint(whole.files.get(flake.LOCK_FILE), whole.files[flake.FILE], now)]),
    ]
    unreachable = isinstance(found.machines[inventory.primary.name], SmallkubeError)
    etcd = None if isinstance(found.etcd, SmallkubeError) else found.etcd
    api, warnings = None if unreachable else found.api, tuple(people.warnings(cluster.workspace, now))
    return Status(rows, api, etcd, days, found.backup, tuple(problems), warnings)


def _control_plane_problems(inventory: Inventory, found: Facts[HostFacts]) -> Iterator[str]:
    if isinstance(found.machines[inventory.primary.name], SmallkubeError):
        yield f"neither the API server nor etcd can be asked without {inventory.primary.name}"
        return
    yield from (f"the API server {fault}" for fault in found.api_faults)
    if found.api.version and found.api.members is None:
        yield "the API server does not list the nodes"
    yield from [str(found.etcd)] if isinstance(found.etcd, SmallkubeError) else etcd_status.problems(found.etcd)


def key_problems(cluster: Cluster, connect: Connect, found: Facts[HostFacts]) -> Iterator[str]:
    """Where keys/ differs from what the nodes were given and from what the API server accepts."""
    known, primary = states(cluster.workspace), cluster.inventory.primary
    reached = {name: each.facts for name, each in found.machines.items() if isinstance(each, Machine)}
    newer = [name for name, facts in reached.items() if facts.keys and facts.keys not in known]
    yield from (f"{name} has newer keys than this workspace (git pull)" for name in newer)
    if primary.name in reached:
        fix = "git pull" if newer else f"inv deploy --node {primary.name}"
        try:
            with connect(primary) as host:
                differences = identities.mismatched(cluster, host)
            yield from (f"the API server {each} ({fix})" for each in differences)
        except SmallkubeError as error:
            yield str(error)


def row(
    inventory: Inventory,
    node: Node,
    found: Machine[HostFacts] | SmallkubeError,
    api: Api,
    digest: str,
    keys: Mapping[int, str],
) -> Row:
    """One node's line. ``digest``: of the workspace's bundle; ``keys``: index → public key in WireGuard."""
    host = inventory.addressing.node_host(node.index)
    if isinstance(found, SmallkubeError):
        known = _row_of_api(node, host, api, datetime.now(UTC).timestamp())
        return replace(known, problems=(*known.problems, found.message))
    known, last = _row_of_api(node, host, api, found.facts.clock), found.facts.last_deploy
    # The checks of deploy.status and net.check; etcd is checked apart.
    services = (check for check in checks.services(node, found.facts) if check.check != "etcd")
    network = checks.network(inventory, node, found.facts, keys)
    faults = failed((checks.system(node, found.facts, digest), *services, *network))
    return replace(
        known,
        kubelet=found.running.versions.get(KUBELET) or known.kubelet,
        kernel=found.running.kernel,
        generation=found.facts.generation,
        tunnel=_tunnel(inventory, node, found.facts, keys),
        deployed=last.digest[:12] if last else "none",
        drift=next((check.detail for check in faults if check.check == "system"), ""),
        problems=(*known.problems, *(f"{check.check}: {check.detail}" for check in faults)),
        uses=found.running.uses,
    )


def _row_of_api(node: Node, host: str, api: Api, clock: float) -> Row:
    """What the API server knows of ``node``, which it calls ``host``; ``clock`` in seconds since 1970."""
    member, lease = (api.members or {}).get(host), api.leases.get(host)
    ready = "Ready" if member and member.ready else "NotReady" if member else "missing"
    problems = [] if api.members is None or ready == "Ready" else [f"is {ready}"]
    age = max(0, int(clock - lease.renewed.timestamp())) if lease else None
    if lease and age is not None and age > lease.seconds:
        problems.append(f"its lease was renewed {age} s ago, which is due every {lease.seconds} s at least")
    if member and member.cordoned and member.marked:
        problems.append(f"was left cordoned by a drain that did not end (inv nodes.uncordon --node {node.name})")
    return Row(
        node=node.name,
        role=node.role,
        kubelet=member.kubelet if member else "",
        ready=_UNKNOWN if api.members is None else ready,
        cordoned=bool(member and member.cordoned),
        lease_seconds=age,
        problems=tuple(problems),
    )


def _tunnel(inventory: Inventory, node: Node, facts: HostFacts, keys: Mapping[int, str]) -> str:
    others = [other for other in inventory.nodes if other != node]
    ages = [facts.handshake_age(keys.get(other.index, "")) for other in others]
    fresh = sum(age is not None and age <= checks.MAX_HANDSHAKE_SECONDS for age in ages)
    return f"{fresh} of {len(others)}"


def expiries(inventory: Inventory, keys: Keys, now: datetime) -> tuple[dict[str, int], list[str]]:
    """Certificate in keys/ → days until it expires; and problems."""
    days: dict[str, int] = {}
    problems = []
    for wanted in policy.certificates(inventory):
        pem = keys.certificates.get(wanted.file)
        fix = "inv keys.generate" if pem is None else "inv keys.rotate-certificates"
        faults = certificates.complaints(pem, wanted, "", None, now)
        problems += [f"keys/{wanted.file}: {fault} ({fix})" for fault in faults]
        with suppress(SmallkubeError):
            days[wanted.file] = (certificates.load(pem or b"", wanted.file).not_valid_after_utc - now).days
    return days, problems
