"""Facts about the whole cluster: what can't be asked is an error in their place, and the rest is there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import units_of
from smallkube.etcd import catalog
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
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
Count = Annotated[int, Field(ge=0, lt=1 << 40)]


@dataclass(frozen=True)
class Use:
    """What a service's main process has of its machine.

    ``memory``: resident, in KiB; of it ``anonymous`` is what is in no file (of a program the kernel can drop parts).
    ``processor``: its time since it started ``age`` ago, both in hundredths of a second (clock ticks of proc(5)).
    """

    memory: Count
    anonymous: Count
    processor: Count
    age: Count

    @property
    def share(self) -> float:
        """Percent of a core since it started."""
        return 100 * self.processor / max(1, self.age)


@dataclass(frozen=True)
class Running:
    """A machine's kernel, service → version of its program that runs ("v1.34.2"), "" when it does not run.

    ``uses``: service → what it uses, of those that run.
    """

    kernel: str
    versions: dict[str, str]
    uses: dict[str, Use] = field(default_factory=dict)


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
    """``ask`` every machine, API server and etcd, all at once.

    Only a workspace that can't be read raises SmallkubeError.
    """

    def machine(host: Host) -> Machine[T]:
        found: list[Any] = fleet.together(lambda: ask(host), lambda: running(host))
        return Machine(*found)

    asked: list[Any] = fleet.together(
        lambda: fleet.ask(cluster.inventory.nodes, connect, machine),
        lambda: _or_error(lambda: _control_plane(cluster, connect, upgrading)),
    )
    outcomes, control = asked
    machines = {one.node.name: one.value or one.error or SmallkubeError("not reached") for one in outcomes}
    backup, here = catalog.of(cluster).newest, machines[cluster.inventory.primary.name]
    if error := next((one for one in (here, control) if isinstance(one, SmallkubeError)), None):
        return Facts(machines, Api(), error, backup, error, error)
    return Facts(machines, control[0], control[1], backup, *control[2:])


def running(host: Host) -> Running:
    """Ask a machine. Raises SmallkubeError."""
    versions = (API_SERVER, KUBELET, PROXY) if host.node.role == "primary" else (KUBELET, PROXY)
    return scripts.read(host, SCRIPTS.sent("running", *versions, "--", *services(host.node)), Running)


def services(node: Node) -> tuple[str, ...]:
    """The services of ``node`` that run all the time."""
    return tuple(unit for unit in units_of(node) if unit != "kube-activation")


def _control_plane(cluster: Cluster, connect: Connect, upgrading: bool) -> tuple[Any, ...]:
    """The last fields of ``Facts``, but for the backup. Raises SmallkubeError when the primary can't be reached."""
    hosts = {cluster.inventory.addressing.node_host(node.index) for node in cluster.inventory.nodes}
    with connect(cluster.inventory.primary) as host:
        questions: list[Callable[[], Any]] = [
            lambda: kubectl.read(host),
            lambda: _or_error(lambda: etcd_status.read(host, _ETCD_SECONDS)),
            lambda: _or_error(lambda: versions.deprecated(kubectl.metrics(host))),
            lambda: _or_error(lambda: disruptions.blocking(host, hosts)),
        ]
        return tuple(fleet.together(*questions[: 4 if upgrading else 2]))


def _or_error(ask: Callable[[], T]) -> T | SmallkubeError:
    try:
        return ask()
    except SmallkubeError as error:
        return error
