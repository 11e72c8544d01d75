"""Facts about the whole cluster: what can't be asked is an error in their place, and the rest is there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.etcd import catalog
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.kube import disruptions, kubectl, versions
from smallkube.kube.kubectl import Api
from smallkube.kube.versions import Deprecated
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import fleet, scripts
from smallkube.remote.host import Connect, Host

API_SERVER = "kube-apiserver"
KUBELET = "kubelet"
PROXY = "kube-proxy"
_ETCD_SECONDS = 10

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """A machine's kernel, and service → version of its program that runs ("v1.34.2"), "" when it does not run."""

    kernel: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Machine(Generic[T]):
    """What one machine was asked for, and what runs there."""

    facts: T
    running: Running


@dataclass(frozen=True)
class Facts(Generic[T]):
    """``machines`` by name; ``api`` has no version when it does not answer. ``backup``: the newest verified one here.

    ``deprecated``: the APIs that were requested though they are deprecated, ``budgets``: the PodDisruptionBudgets that
    keep nodes from being drained, if that was to be asked.
    """

    machines: Mapping[str, Machine[T] | SmallkubeError]
    api: Api
    etcd: etcd_status.Status | SmallkubeError
    backup: Record | None
    deprecated: tuple[Deprecated, ...] | SmallkubeError = ()
    budgets: tuple[str, ...] | SmallkubeError = ()

    @property
    def api_faults(self) -> list[str]:
        """What is wrong with the API server, as what it does."""
        if not self.api.version:
            return ["does not answer"]
        return [f"is not ready: {', '.join(self.api.failing)}"] if self.api.failing else []


def read(cluster: Cluster, connect: Connect, ask: Callable[[Host], T], *, upgrading: bool = False) -> Facts[T]:
    """``ask`` every machine, then API server and etcd; only a workspace that can't be read raises SmallkubeError."""

    def machine(host: Host) -> Machine[T]:
        units = (API_SERVER, KUBELET, PROXY) if host.node.role == "primary" else (KUBELET, PROXY)
        return Machine(ask(host), scripts.read(host, SCRIPTS.sent("running", *units), Running))

    outcomes = fleet.ask(cluster.inventory.nodes, connect, machine)
    machines = {one.node.name: one.value or one.error or SmallkubeError("not reached") for one in outcomes}
    backup, primary = catalog.of(cluster).newest, cluster.inventory.primary
    try:
        if isinstance(error := machines[primary.name], SmallkubeError):
            raise error
        with connect(primary) as host:
            api = kubectl.read(host)
            etcd = _or_error(lambda: etcd_status.read(host, _ETCD_SECONDS))
            found = Facts(machines, api, etcd, backup)
            if not upgrading:
                return found
            hosts = {cluster.inventory.addressing.node_host(node.index) for node in cluster.inventory.nodes}
            asked = _or_error(lambda: versions.deprecated(kubectl.metrics(host)))
            return replace(found, deprecated=asked, budgets=_or_error(lambda: disruptions.blocking(host, hosts)))
    except SmallkubeError as error:
        return Facts(machines, Api(), error, backup, error, error)


def _or_error(ask: Callable[[], T]) -> T | SmallkubeError:
    try:
        return ask()
    except SmallkubeError as error:
        return error
