"""May a deploy change Kubernetes' version? Compares the inventory with what runs, and looks for what must be well."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import catalog
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.kube import kubectl as api_server
from smallkube.kube import versions
from smallkube.kube.kubectl import Api
from smallkube.kube.versions import Deprecated
from smallkube.operations import cluster_facts
from smallkube.operations.cluster_facts import API_SERVER, KUBELET, PROXY, DeployReadiness
from smallkube.remote.host import Host
from smallkube.remote.ssh import SshHost

RECENT = timedelta(days=1)
_ETCD_SECONDS = 10

Result = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """A failed one forbids an upgrade, a warning is to be looked at before."""

    check: str
    result: Result
    detail: str


@dataclass(frozen=True)
class Facts:
    """What was found; what could not be asked is the error that was in the way."""

    api: Api
    etcd: etcd_status.Status | SmallkubeError
    deprecated: tuple[Deprecated, ...] | SmallkubeError
    machines: Mapping[str, DeployReadiness | SmallkubeError]
    backup: Record | None

    def server(self, primary: str) -> str:
        """The API server's version: its own word, else that of the program that runs; "" when neither is known."""
        found = self.machines[primary]
        program = "" if isinstance(found, SmallkubeError) else found.running.versions.get(API_SERVER, "")
        return self.api.version or program


def read(cluster: Cluster) -> Facts:
    """Ask every machine, API server and etcd; only a workspace that can't be read raises SmallkubeError."""
    rooms = cluster_facts.rooms(cluster)
    backup = catalog.read(catalog.folder_of(cluster)).newest
    try:
        with SshHost(cluster.workspace, cluster.inventory.primary) as primary:
            api = api_server.read(primary)
            return Facts(api, _etcd(primary), _deprecated(primary, api), rooms, backup)
    except SmallkubeError as error:
        return Facts(Api(), error, error, rooms, backup)


def _etcd(primary: Host) -> etcd_status.Status | SmallkubeError:
    try:
        return etcd_status.read(primary, _ETCD_SECONDS)
    except SmallkubeError as error:
        return error


def _deprecated(primary: Host, api: Api) -> tuple[Deprecated, ...] | SmallkubeError:
    if api.members is None:
        return SmallkubeError("the API server does not answer")
    try:
        return versions.deprecated(api_server.metrics(primary))
    except SmallkubeError as error:
        return error


def judge(inventory: Inventory, facts: Facts, now: datetime) -> tuple[Finding, ...]:
    """Everything that speaks for or against an upgrade to the inventory's version."""
    target, server = inventory.cluster.kubernetes, facts.server(inventory.primary.name)
    parts = (
        _check("API server", _api_faults(facts.api), f"answers and is ready, {server}"),
        _step(target, server),
        _check("version skew", list(_skew_faults(inventory, facts, server)), "all kubelets and kube-proxies fit"),
        _check("nodes", list(_node_faults(inventory, facts.api)), f"all {len(inventory.nodes)} Ready"),
        _machines(inventory, facts),
        _etcd_findings(facts.etcd),
        _backup(facts.backup, now),
        _deprecated_findings(facts.deprecated, target),
    )
    return tuple(finding for part in parts for finding in part)


def _check(name: str, faults: Collection[str], seen: str) -> Iterator[Finding]:
    """One finding for each fault, else that all is well."""
    yield from (Finding(name, "failed", fault) for fault in faults)
    if not faults:
        yield Finding(name, "ok", seen)


def _api_faults(api: Api) -> list[str]:
    if not api.version:
        return ["does not answer"]
    return [f"is not ready: {', '.join(api.failing)}"] if api.failing else []


def _step(target: str, server: str) -> Iterator[Finding]:
    if not server:
        yield Finding("minor step", "failed", "which version runs is not known")
        return
    seen = (
        f"from {server} to {target}"
        if versions.minor(target) != versions.minor(server)
        else f"none: {server} runs already"
    )
    yield from _check("minor step", list(versions.step(target, server)), seen)


def _skew_faults(inventory: Inventory, facts: Facts, server: str) -> Iterator[str]:
    """Versions as the machines have them running; of a node that can't be asked, what the API server knows."""
    found: dict[str, str] = {name: member.kubelet for name, member in (facts.api.members or {}).items()}
    others = {f"kubelet on {name}": version for name, version in found.items()}
    for node in inventory.nodes:
        seen = facts.machines[node.name]
        if isinstance(seen, SmallkubeError):
            continue
        running = seen.running.versions
        others[f"kubelet on {inventory.addressing.node_host(node.index)}"] = running.get(KUBELET, "")
        others[f"kube-proxy on {inventory.addressing.node_host(node.index)}"] = running.get(PROXY, "")
    yield from (f"{name} does not run" for name, version in others.items() if not version)
    if not server:
        yield "there is nothing to compare with"
    else:
        known = {name: version for name, version in others.items() if version}
        yield from versions.skew(inventory.cluster.kubernetes, server, known)


def _node_faults(inventory: Inventory, api: Api) -> Iterator[str]:
    if api.members is None:
        yield "the API server could not be asked which are Ready"
        return
    expected = [inventory.addressing.node_host(node.index) for node in inventory.nodes]
    yield from (f"{name} is not in the cluster" for name in expected if name not in api.members)
    yield from (f"{name} is not Ready" for name, member in api.members.items() if not member.ready)


def _machines(inventory: Inventory, facts: Facts) -> Iterator[Finding]:
    """What a deploy's own preflight would refuse: disk space, clock, host key."""
    faults, free = [], []
    for node in inventory.nodes:
        seen = facts.machines[node.name]
        if isinstance(seen, SmallkubeError):
            faults.append(f"{node.name}: {seen.message}")
            continue
        faults += [f"{node.name}: {reason}" for reason in seen.unfit]
        free.append(seen.store_free_kib)
    yield from _check("machines", faults, f"at least {min(free, default=0) >> 20} GiB free in /nix/store; clocks agree")


def _etcd_findings(etcd: etcd_status.Status | SmallkubeError) -> Iterator[Finding]:
    if isinstance(etcd, SmallkubeError):
        yield Finding("etcd", "failed", str(etcd))
        return
    yield from _check("etcd", list(etcd_status.problems(etcd)), f"{etcd.version}, {etcd.size >> 20} MiB, no alarm")


def _backup(newest: Record | None, now: datetime) -> Iterator[Finding]:
    if newest is None:
        yield Finding("backup", "warning", "none here that was verified (inv etcd.backup)")
    elif now - newest.time > RECENT:
        yield Finding("backup", "warning", f"the newest verified one is of {newest.created} (inv etcd.backup)")
    else:
        yield Finding("backup", "ok", f"{newest.name}, verified")


def _deprecated_findings(found: tuple[Deprecated, ...] | SmallkubeError, target: str) -> Iterator[Finding]:
    """An API that is gone in ``target`` forbids it; of others, those that have a date are a warning."""
    name = "deprecated APIs"
    if isinstance(found, SmallkubeError):
        yield Finding(name, "warning", f"not known which are asked for: {found.message}")
        return
    for each in found:
        gone = each.removed and versions.minor(each.removed) <= versions.minor(target)
        hint = ", and was asked for since the API server's last start" if gone else ""
        yield Finding(name, "failed" if gone else "warning" if each.removed else "ok", f"{each}{hint}")
    if not found:
        yield Finding(name, "ok", "none was asked for")
