"""May a deploy change Kubernetes' version? Compares the inventory with what runs, and checks nodes, etcd and backup."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from smallkube.core.checks import Check, Result
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
from smallkube.remote.host import Connect

RECENT = timedelta(days=1)
_ETCD_SECONDS = 10

T = TypeVar("T")


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


def read(cluster: Cluster, connect: Connect) -> Facts:
    """Ask every machine, API server and etcd; only a workspace that can't be read raises SmallkubeError."""
    machines = cluster_facts.deploy_readiness(cluster, connect)
    backup = catalog.read(catalog.folder_of(cluster)).newest
    try:
        with connect(cluster.inventory.primary) as primary:
            api = api_server.read(primary)
            etcd = _or_error(lambda: etcd_status.read(primary, _ETCD_SECONDS))
            deprecated = _or_error(lambda: versions.deprecated(api_server.metrics(primary)))
            return Facts(api, etcd, deprecated, machines, backup)
    except SmallkubeError as error:
        return Facts(Api(), error, error, machines, backup)


def _or_error(ask: Callable[[], T]) -> T | SmallkubeError:
    try:
        return ask()
    except SmallkubeError as error:
        return error


def check(inventory: Inventory, facts: Facts, now: datetime) -> tuple[Check, ...]:
    """Everything that speaks for or against an upgrade to the inventory's version: what failed forbids it."""
    target, server = inventory.cluster.kubernetes, facts.server(inventory.primary.name)
    ready = f"all {len(inventory.nodes)} Ready"
    return (
        Check.of("", "API server", _api_faults(facts.api), f"answers and is ready, {server}"),
        _step(target, server),
        Check.of("", "version skew", _skew_faults(inventory, facts, server), "all kubelets and kube-proxies fit"),
        Check.of("", "nodes", _node_faults(inventory, facts.api), ready),
        _machines(inventory, facts),
        _etcd_check(facts.etcd),
        _backup(facts.backup, now),
        *_deprecated_checks(facts.deprecated, target),
    )


def _api_faults(api: Api) -> list[str]:
    if not api.version:
        return ["does not answer"]
    return [f"is not ready: {', '.join(api.failing)}"] if api.failing else []


def _step(target: str, server: str) -> Check:
    name = "minor step"
    if not server:
        return Check("", name, Result.FAILED, "which version runs is not known")
    same = versions.minor(target) == versions.minor(server)
    seen = f"none: {server} runs already" if same else f"from {server} to {target}"
    return Check.of("", name, versions.step(target, server), seen)


def _skew_faults(inventory: Inventory, facts: Facts, server: str) -> Iterator[str]:
    """Versions as the machines have them running; of a node that can't be asked, what the API server knows."""
    others = {f"kubelet on {name}": member.kubelet for name, member in (facts.api.members or {}).items()}
    for node in inventory.nodes:
        found, name = facts.machines[node.name], inventory.addressing.node_host(node.index)
        if not isinstance(found, SmallkubeError):
            others |= {f"{unit} on {name}": found.running.versions.get(unit, "") for unit in (KUBELET, PROXY)}
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


def _machines(inventory: Inventory, facts: Facts) -> Check:
    """What a deploy's own preflight would refuse: disk space, clock, host key."""
    faults, free = [], []
    for node in inventory.nodes:
        found = facts.machines[node.name]
        if isinstance(found, SmallkubeError):
            faults.append(f"{node.name}: {found.message}")
        else:
            faults += [f"{node.name}: {reason}" for reason in found.unfit]
            free.append(found.store_free_kib)
    seen = f"at least {min(free, default=0) >> 20} GiB free in /nix/store; clocks agree"
    return Check.of("", "machines", faults, seen)


def _etcd_check(etcd: etcd_status.Status | SmallkubeError) -> Check:
    if isinstance(etcd, SmallkubeError):
        return Check("", "etcd", Result.FAILED, str(etcd))
    return Check.of("", "etcd", etcd_status.problems(etcd), f"{etcd.version}, {etcd.size >> 20} MiB, no alarm")


def _backup(newest: Record | None, now: datetime) -> Check:
    if newest is None:
        return Check("", "backup", Result.WARNING, "none here that was verified (inv etcd.backup)")
    if now - newest.time > RECENT:
        detail = f"the newest verified one is of {newest.created} (inv etcd.backup)"
        return Check("", "backup", Result.WARNING, detail)
    return Check("", "backup", Result.OK, f"{newest.name}, verified")


def _deprecated_checks(found: tuple[Deprecated, ...] | SmallkubeError, target: str) -> Iterator[Check]:
    """An API that is gone in ``target`` forbids it; of others, those that have a date are a warning."""
    name = "deprecated APIs"
    if isinstance(found, SmallkubeError):
        yield Check("", name, Result.WARNING, f"not known which are asked for: {found.message}")
    elif not found:
        yield Check("", name, Result.OK, "none was asked for")
    else:
        for each in found:
            gone = each.removed and versions.minor(each.removed) <= versions.minor(target)
            hint = ", and was asked for since the API server's last start" if gone else ""
            result = Result.FAILED if gone else Result.WARNING if each.removed else Result.OK
            yield Check("", name, result, f"{each}{hint}")
