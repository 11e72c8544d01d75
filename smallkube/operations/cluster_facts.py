"""What the machines say of themselves, each asked over its own connection; one that can't be asked is an error."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, health, inspection
from smallkube.deploy.inspection import State
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix.bundle import Bundle
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Host
from smallkube.remote.ssh import SshHost

API_SERVER = "kube-apiserver"
KUBELET = "kubelet"
PROXY = "kube-proxy"
_RUNNING = Path(__file__).with_name("scripts") / "running.sh"

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
    return _each(
        cluster, lambda session: NodeState(inspection.read(session, cluster.inventory, digest), running(session))
    )


def deploy_readiness(cluster: Cluster) -> dict[str, DeployReadiness | SmallkubeError]:
    """What a deploy's own preflight would say of every machine, by its name."""

    def ready(session: Host) -> DeployReadiness:
        look = facts.look(session, Bundle({}))
        file = cluster.workspace.hosts_keys_dir / f"{session.node.name}.pub"
        return DeployReadiness(
            look.store_free, tuple(health.unfit(look, time.time(), file.read_text())), running(session)
        )

    return _each(cluster, ready)


def _each(cluster: Cluster, ask: Callable[[Host], T]) -> dict[str, T | SmallkubeError]:
    def read(node: Node) -> T:
        with SshHost(cluster.workspace, node) as session:
            return ask(session)

    outcomes = fleet.run([cluster.inventory.nodes], read)
    return {out.node.name: out.value or out.error or SmallkubeError("was not asked") for out in outcomes}


def running(session: Host) -> Running:
    """Raises SmallkubeError when the machine does not answer."""
    units = (API_SERVER, KUBELET, PROXY) if session.node.role == "primary" else (KUBELET, PROXY)
    argv = ("/bin/sh", "-s", "--", *units)
    return parse(session.run_checked(Command(argv, stdin=_RUNNING.read_bytes(), timeout=60, title="running")).text)


def parse(text: str) -> Running:
    """Read what ``running.sh`` printed."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return Running(found.pop("kernel", ""), found)
