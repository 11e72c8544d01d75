"""To the next minor version of Kubernetes: guarded, backed up, in stages with a smoke test after each, with a way back.

Where an upgrade stands is what runs: a stage that is done already is found unchanged, so that the same command goes on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.plan import Options
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import kubectl, versions
from smallkube.operations import upgrade_guard as guard
from smallkube.operations.upgrade_guard import Facts
from smallkube.remote.ssh import SshHost

_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Plan:
    """``runs``: the API server's version; ``stages``: the primary alone, then the workers in batches.

    ``backup``: one is taken before. Not when the primary has gone over already: it would be no way back.
    """

    target: str
    runs: str
    stages: tuple[tuple[Node, ...], ...]
    backup: bool

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        first = ("take a backup of etcd, and verify it: the way back",) if self.backup else ()
        names = [", ".join(node.name for node in stage) for stage in self.stages]
        stages = (f"deploy {name}, pods moved away where they would notice; smoke test" for name in names)
        return (*first, *stages)


@dataclass(frozen=True)
class Outcome:
    """``backup`` is the one to go back to, "" when this run has taken none."""

    version: str
    backup: str


def make(inventory: Inventory, facts: Facts, batch: int) -> Plan:
    """The stages. Raises SmallkubeError when the guard (see ``inv cluster.upgrade-check``) forbids to begin."""
    findings = guard.judge(inventory, facts, datetime.now(UTC))
    if failed := [f"{each.check}: {each.detail}" for each in findings if each.result == "failed"]:
        hint = "inv cluster.upgrade-check says more"
        raise SmallkubeError(f"must not begin: {'; '.join(failed)}", where=inventory.cluster.name, hint=hint)
    target, server = inventory.cluster.kubernetes, facts.server(inventory.primary.name)
    workers = inventory.workers
    batches = (tuple(workers[at : at + batch]) for at in range(0, len(workers), batch))
    return Plan(target, server, ((inventory.primary,), *batches), not _half_way(facts, target, server))


def _half_way(facts: Facts, target: str, server: str) -> bool:
    """The API server has the target's version, and a kubelet does not."""
    members = facts.api.members or {}
    wanted = versions.minor(target)
    return versions.minor(server) == wanted and any(versions.minor(one.kubelet) != wanted for one in members.values())


@dataclass(frozen=True)
class Upgrade:
    """What it takes to carry out a plan. ``back_up`` gives the backup's name, ``smoke`` the checks that were not ok.

    ``settle``: for how many seconds after a stage the smoke test is made again when it was not ok: what lost the API
    server comes back to it in its own time (CoreDNS and the controllers try ever more rarely).
    """

    cluster: Cluster
    watcher: Watcher
    back_up: Callable[[], str]
    smoke: Callable[[], Sequence[str]]
    settle: int

    def execute(self, plan: Plan, step: Callable[[str], object]) -> Outcome:
        """Stage after stage. Raises SmallkubeError at the first that is not well: later ones are untouched."""
        backup = ""
        if plan.backup:
            step("back up etcd")
            backup = self.back_up()
        version = ""
        for stage in plan.stages:
            names = ", ".join(node.name for node in stage)
            step(f"deploy {names}")
            roll_out(self.cluster, stage, self.watcher, Options(batch=len(stage)))
            version = version or self._running(plan)
            if bad := self._smoke(step):
                way = way_back(stage, backup)
                raise SmallkubeError(f"after {names} not all is well: {', '.join(bad)}", hint=way)
        return Outcome(version, backup)

    def _smoke(self, step: Callable[[str], object]) -> Sequence[str]:
        deadline = time.monotonic() + self.settle
        step("smoke test")
        while (bad := self.smoke()) and time.monotonic() < deadline:
            step(f"smoke test again: {', '.join(bad)}")
            time.sleep(_PAUSE_SECONDS)
        return bad

    def _running(self, plan: Plan) -> str:
        """The API server's version, which must be the target's now."""
        with SshHost(self.cluster.workspace, self.cluster.inventory.primary) as primary:
            version = kubectl.read(primary).version
        if not version or versions.minor(version) != versions.minor(plan.target):
            hint = f"does NixOS {self.cluster.inventory.cluster.nixos} have {plan.target}? inv nix.render --update-lock"
            raise SmallkubeError(f"the API server runs {version or 'no version'}, not {plan.target}", hint=hint)
        return version


def way_back(stage: Sequence[Node], backup: str) -> str:
    """What to do when a stage can't be mended. etcd's contents are written by the newer API server by then."""
    nodes = " ".join(f"--node {node.name}" for node in stage)
    restore = f"inv etcd.restore --name {backup or 'NAME'}"
    first = f"mend it and run the same command again; or go back: inv deploy.rollback {nodes}"
    if any(node.role == "primary" for node in stage):
        return f"{first}, then, if the older API server can't read what is in etcd, {restore}"
    return first
