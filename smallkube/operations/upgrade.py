"""To another minor version of Kubernetes, one after the other: backed up, in stages with a smoke test after each.

Where an upgrade stands is what runs: deploying a stage again that is complete changes nothing. A minor whose last smoke
test may not have passed is repeated: its configuration is still there (``upgrade_path``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from smallkube.operations import upgrade_path
from smallkube.operations.cluster_facts import Facts
from smallkube.operations.engine import Operation, Runbook, Step
from smallkube.operations.upgrade_check import NOTHING, Readiness, check, known, server
from smallkube.remote import fleet

_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Minor:
    """One minor of the way, "1.35". ``back_up``: whether to begin with a backup. Not when the primary has it already:
    it could not roll that back. ``keeps_etcd``: the minor of etcd is known to stay.
    """

    version: str
    back_up: bool = True
    keeps_etcd: bool = False


@dataclass(frozen=True)
class Plan:
    """``runs``: the API server's version; ``stages``: the primary alone, then the workers in batches; of each minor.

    ``about``: lines for a person. ``reversible`` False: the primary does not roll back where etcd may get a new minor.
    """

    runs: str
    minors: tuple[Minor, ...]
    stages: tuple[tuple[Node, ...], ...]
    about: tuple[str, ...] = ()
    reversible: bool = True


def forbidden(
    inventory: Inventory, facts: Facts[Readiness], packages: Mapping[str, str], *, reversible: bool
) -> list[str]:
    """Why an upgrade must not begin or go on."""
    found = check(inventory, facts, datetime.now(UTC), packages, reversible=reversible)
    return [f"{each.check}: {each.detail}" for each in failed(found)]


def make(
    cluster: Cluster,
    facts: Facts[Readiness],
    batch: int,
    packages: Mapping[str, str] = NOTHING,
    *,
    reversible: bool = True,
) -> Plan:
    """The minors and stages; ``packages`` and ``reversible`` as in ``upgrade_check.check``.

    Raises SmallkubeError when the guard (see ``inv cluster.upgrade-check``) forbids to begin.
    """
    inventory = cluster.inventory
    if faults := forbidden(inventory, facts, packages, reversible=reversible):
        hint = "inv cluster.upgrade-check says more"
        raise SmallkubeError(f"must not begin: {'; '.join(faults)}", where=inventory.cluster.name, hint=hint)
    runs, target = server(inventory, facts), inventory.cluster.kubernetes
    present, etcd = f"1.{versions.minor(runs)}", getattr(facts.etcd, "version", "")
    members = facts.api.members or {}
    kubelets = [members[inventory.addressing.node_host(node.index)].kubelet for node in inventory.nodes]
    half_way = any(versions.minor(kubelet) != versions.minor(runs) for kubelet in kubelets)
    passed = upgrade_path.minors(target, runs)
    unfinished = present != target and (half_way or upgrade_path.is_under_way(cluster.workspace, runs))
    if unfinished:
        upgrade_path.at(inventory, present)
        passed = (present, *passed)
    found = known(inventory, passed, packages)
    minors = tuple(
        Minor(
            each,
            back_up=each != present or not (half_way or unfinished),
            keeps_etcd=upgrade_path.raises_etcd(each, etcd, there) is False,
        )
        for each, there in found
    )
    about = [line for each, there in found for line in upgrade_path.describe(inventory, each, there, etcd)]
    return Plan(runs, minors, fleet.stages(inventory.nodes, batch), tuple(about), reversible)


@dataclass
class Upgrade(Runbook):
    """Carries out ``plan``. ``smoke`` returns the checks that failed, ``facts`` what is so now.

    ``settle``: for how many seconds after a stage a failed smoke test is repeated, and before another minor a check:
    what lost the API server comes back to it in its own time (CoreDNS and the controllers try ever more rarely).
    ``on_failure`` gets each failed one.

    ``version`` is known once the primary was deployed to: what its API server runs.
    """

    plan: Plan
    smoke: Callable[[], Sequence[str]]
    facts: Callable[[], Facts[Readiness]]
    settle: int
    on_failure: Callable[[str], object]
    version: str = ""

    def operation(self) -> Operation:
        """The steps; each may be repeated, and of the minors that do not run everywhere all of them are."""
        minors = [each.version for each in self.plan.minors]
        between = [each for each in minors if each != self.inventory.cluster.kubernetes]
        steps = []
        if between:
            title = f"render and lock the configuration of {', '.join(between)} (.smallkube/upgrade)"
            steps.append(Step(title, partial(upgrade_path.prepare, self.cluster, between)))
        for each in self.plan.minors:
            prefix = f"{each.version}: " if between else ""
            steps += [Step(f"{prefix}{title}", run) for title, run in self._steps(each)]
        return Operation(tuple(steps))

    def _steps(self, minor: Minor) -> Iterator[tuple[str, Callable[[], object]]]:
        cluster = upgrade_path.cluster_at(self.cluster, minor.version)
        if minor is not self.plan.minors[0]:
            yield "check what forbids it", partial(self._check, cluster)
        if minor.back_up:
            yield "back up etcd and verify the backup", self.back_up
        for stage in self.plan.stages:
            names = ", ".join(node.name for node in stage)
            yield f"deploy {names}", partial(self._deploy, cluster, stage, minor)
            yield f"smoke test after {names}", partial(self._smoke, cluster, stage)

    def _check(self, cluster: Cluster) -> None:
        target = cluster.inventory.cluster.kubernetes

        def faults() -> Sequence[str]:
            facts = self.facts()
            runs = server(cluster.inventory, facts)
            skipped = upgrade_path.minors(target, runs)[:-1] if runs else ()
            missing = [f"minor step: {runs} runs, {each} comes first" for each in skipped]
            return [*missing, *forbidden(cluster.inventory, facts, NOTHING, reversible=True)]

        hint = "repair it and run the same command again"
        wait_until(faults, self.settle, f"must not go on to {target}", hint=hint, interval=_PAUSE_SECONDS)

    def _deploy(self, cluster: Cluster, stage: Sequence[Node], minor: Minor) -> None:
        """Raises SmallkubeError when the API server then has not the minor's version."""
        primary = self.inventory.primary
        rollback = self.plan.reversible or minor.keeps_etcd or primary not in stage
        options = Options(batch=len(stage), upgrade=True, rollback=rollback)
        self.deploy(stage, cluster=cluster, options=options)
        if primary not in stage:
            return
        with self.connect(primary) as host:
            self.version = kubectl.read(host).version
        target, nixos = cluster.inventory.cluster.kubernetes, cluster.inventory.cluster.nixos
        if not self.version or versions.minor(self.version) != versions.minor(target):
            hint = f"does NixOS {nixos} have {target}? inv nix.render --update-lock"
            raise SmallkubeError(f"the API server runs {self.version or 'no version'}, not {target}", hint=hint)

    def _smoke(self, cluster: Cluster, stage: Sequence[Node]) -> None:
        def failing() -> Sequence[str]:
            if bad := self.smoke():
                self.on_failure(f"smoke test failed: {', '.join(bad)}")
            return bad

        failure = f"after {', '.join(node.name for node in stage)} checks failed"
        hint = how_to_roll_back(stage, self.backup)
        wait_until(failing, self.settle, failure, hint=hint, interval=_PAUSE_SECONDS)
        if stage is self.plan.stages[-1]:
            upgrade_path.end(self.cluster.workspace, cluster.inventory.cluster.kubernetes)


def how_to_roll_back(stage: Sequence[Node], backup: str) -> str:
    """What to do when a stage can't be repaired. etcd's contents are written by the newer API server by then."""
    nodes = " ".join(f"--node {node.name}" for node in stage)
    first = f"repair it and run the same command again; or roll back: inv deploy.rollback {nodes}"
    if any(node.role == "primary" for node in stage):
        restore = f"inv etcd.restore --name {backup or 'NAME'}"
        return f"{first}, then, if the older API server can't read what is in etcd, {restore}"
    return first
