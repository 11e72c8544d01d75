"""To the next minor version of Kubernetes: checked, backed up, in stages with a smoke test after each.

Where an upgrade stands is what runs: deploying a stage again that is complete changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError
from smallkube.core.polling import wait_until
from smallkube.deploy.plan import Options
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import kubectl, versions
from smallkube.operations import upgrade_guard as guard
from smallkube.operations.engine import Operation, Step
from smallkube.operations.upgrade_guard import Facts
from smallkube.remote import fleet
from smallkube.remote.host import Connect

NAME = "upgrade"
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Plan:
    """``runs``: the API server's version; ``stages``: the primary alone, then the workers in batches.

    ``back_up``: whether to begin with a backup. Not when the primary is upgraded already: it could not roll that back.
    """

    target: str
    runs: str
    stages: tuple[tuple[Node, ...], ...]
    back_up: bool


def make(inventory: Inventory, facts: Facts, batch: int) -> Plan:
    """The stages. Raises SmallkubeError when the guard (see ``inv cluster.upgrade-check``) forbids to begin."""
    if faults := [f"{each.check}: {each.detail}" for each in failed(guard.check(inventory, facts, datetime.now(UTC)))]:
        hint = "inv cluster.upgrade-check says more"
        raise SmallkubeError(f"must not begin: {'; '.join(faults)}", where=inventory.cluster.name, hint=hint)
    target, server = inventory.cluster.kubernetes, facts.server(inventory.primary.name)
    wanted, kubelets = versions.minor(target), [member.kubelet for member in (facts.api.members or {}).values()]
    half_way = versions.minor(server) == wanted and any(versions.minor(one) != wanted for one in kubelets)
    return Plan(target, server, fleet.stages(inventory.nodes, batch), not half_way)


@dataclass
class Upgrade:
    """What it takes to carry out a plan. ``back_up`` returns the backup's name, ``smoke`` the checks that failed.

    ``settle``: for how many seconds after a stage a failed smoke test is repeated: what lost the API server comes back
    to it in its own time (CoreDNS and the controllers try ever more rarely). ``on_failure`` gets each failed one.

    ``backup`` and ``version`` are known once it has ended: what this run has taken, "" for none, and what runs now.
    """

    cluster: Cluster
    plan: Plan
    connect: Connect
    deploy: Callable[..., object]
    take_backup: Callable[[], str]
    smoke: Callable[[], Sequence[str]]
    settle: int
    on_failure: Callable[[str], object]
    backup: str = ""
    version: str = ""

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        steps = [Step("back up etcd and verify the backup", self._back_up)] if self.plan.back_up else []
        for stage in self.plan.stages:
            names = ", ".join(node.name for node in stage)
            steps.append(Step(f"deploy {names}", partial(self._deploy, stage)))
            steps.append(Step(f"smoke test after {names}", partial(self._smoke, stage)))
        return Operation(NAME, tuple(steps))

    def _back_up(self) -> None:
        self.backup = self.take_backup()

    def _deploy(self, stage: Sequence[Node]) -> None:
        """Raises SmallkubeError when the API server then has not the target's version."""
        self.deploy(stage, options=Options(batch=len(stage)))
        if self.version:
            return
        with self.connect(self.cluster.inventory.primary) as primary:
            self.version = kubectl.read(primary).version
        target, nixos = self.plan.target, self.cluster.inventory.cluster.nixos
        if not self.version or versions.minor(self.version) != versions.minor(target):
            hint = f"does NixOS {nixos} have {target}? inv nix.render --update-lock"
            raise SmallkubeError(f"the API server runs {self.version or 'no version'}, not {target}", hint=hint)

    def _smoke(self, stage: Sequence[Node]) -> None:
        def failing() -> Sequence[str]:
            if bad := self.smoke():
                self.on_failure(f"smoke test failed: {', '.join(bad)}")
            return bad

        wait_until(failing, self.settle, partial(self._failed, stage), _PAUSE_SECONDS)

    def _failed(self, stage: Sequence[Node], bad: str) -> SmallkubeError:
        names = ", ".join(node.name for node in stage)
        return SmallkubeError(f"after {names} checks failed: {bad}", hint=how_to_roll_back(stage, self.backup))


def how_to_roll_back(stage: Sequence[Node], backup: str) -> str:
    """What to do when a stage can't be repaired. etcd's contents are written by the newer API server by then."""
    nodes = " ".join(f"--node {node.name}" for node in stage)
    first = f"repair it and run the same command again; or roll back: inv deploy.rollback {nodes}"
    if any(node.role == "primary" for node in stage):
        restore = f"inv etcd.restore --name {backup or 'NAME'}"
        return f"{first}, then, if the older API server can't read what is in etcd, {restore}"
    return first
