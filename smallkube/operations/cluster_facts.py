"""Facts about all machines, each read over its own connection; an unreachable one is an error."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks, facts
from smallkube.deploy.facts import HostFacts
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.nix.bundle import Bundle
from smallkube.operations.machines import answer, script
from smallkube.remote import fleet
from smallkube.remote.host import Connect, Host

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
    """One machine: its facts, and what runs."""

    facts: HostFacts
    running: Running


@dataclass(frozen=True)
class DeployReadiness:
    """One machine: what it has room for, and what runs. ``unfit``: why it must not be deployed to, in words."""

    store_free_kib: int
    unfit: tuple[str, ...]
    running: Running


def node_states(inventory: Inventory, connect: Connect, digest: str) -> dict[str, NodeState | SmallkubeError]:
    """Every machine's state, by its name; ``digest`` is that of the workspace's bundle."""
    return _each(inventory, connect, lambda host: NodeState(facts.of_host(host, inventory, digest), running(host)))


def deploy_readiness(cluster: Cluster, connect: Connect) -> dict[str, DeployReadiness | SmallkubeError]:
    """What the preflight of a deploy would find on every machine, by its name."""

    def read(host: Host) -> DeployReadiness:
        found = facts.of_deploy(host, Bundle({}))
        file = cluster.workspace.hosts_keys_dir / f"{host.node.name}.pub"
        unfit = tuple(checks.unfit(found, time.time(), file.read_text()))
        return DeployReadiness(found.store_free, unfit, running(host))

    return _each(cluster.inventory, connect, read)


def _each(inventory: Inventory, connect: Connect, ask: Callable[[Host], T]) -> dict[str, T | SmallkubeError]:
    def read(node: Node) -> T:
        with connect(node) as host:
            return ask(host)

    outcomes = fleet.run([inventory.nodes], read)
    return {out.node.name: out.value or out.error or SmallkubeError("not reached") for out in outcomes}


def running(host: Host) -> Running:
    """Raises SmallkubeError when the machine does not answer."""
    units = (API_SERVER, KUBELET, PROXY) if host.node.role == "primary" else (KUBELET, PROXY)
    return Running(**answer(host, script("running", *units)))
