"""What the machines say of themselves, each asked over its own connection; one that can't be asked is an error."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, health, inspection
from smallkube.deploy.inspection import State
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix.bundle import Bundle
from smallkube.operations.machines import answer, script
from smallkube.remote import fleet
from smallkube.remote.host import Host
from smallkube.remote.ssh import SshHost

API_SERVER = "kube-apiserver"
KUBELET = "kubelet"
PROXY = "kube-proxy"

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """``versions``: service → version of its program that runs ("v1.34.2"), "" when it does not run."""

    kernel: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class NodeState:
    """One machine: its state as deploys see it, and what runs."""

    state: State
    running: Running


@dataclass(frozen=True)
class DeployReadiness:
    """One machine: what it has room for, and what runs. ``unfit``: why it must not be deployed to, in words."""

    store_free_kib: int
    unfit: tuple[str, ...]
    running: Running


def node_states(cluster: Cluster, digest: str) -> dict[str, NodeState | SmallkubeError]:
    """Every machine's state, by its name; ``digest`` is that of the workspace's bundle."""
    return _each(cluster, lambda host: NodeState(inspection.read(host, cluster.inventory, digest), running(host)))


def deploy_readiness(cluster: Cluster) -> dict[str, DeployReadiness | SmallkubeError]:
    """What a deploy's own preflight would say of every machine, by its name."""

    def ready(host: Host) -> DeployReadiness:
        look = facts.look(host, Bundle({}))
        file = cluster.workspace.hosts_keys_dir / f"{host.node.name}.pub"
        return DeployReadiness(look.store_free, tuple(health.unfit(look, time.time(), file.read_text())), running(host))

    return _each(cluster, ready)


def _each(cluster: Cluster, ask: Callable[[Host], T]) -> dict[str, T | SmallkubeError]:
    def read(node: Node) -> T:
        with SshHost(cluster.workspace, node) as host:
            return ask(host)

    outcomes = fleet.run([cluster.inventory.nodes], read)
    return {out.node.name: out.value or out.error or SmallkubeError("was not asked") for out in outcomes}


def running(host: Host) -> Running:
    """Raises SmallkubeError when the machine does not answer."""
    units = (API_SERVER, KUBELET, PROXY) if host.node.role == "primary" else (KUBELET, PROXY)
    return Running(**answer(host, script("running", *units)))
