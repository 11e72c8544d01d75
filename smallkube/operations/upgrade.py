"""To the next minor version of Kubernetes: checked, backed up, in stages with a smoke test after each.

The check compares the inventory with what runs, and looks at nodes, etcd and backup. Where an upgrade stands is what
runs: deploying a stage again that is complete changes nothing.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from smallkube.core.checks import Check, Result, failed
from smallkube.core.errors import SmallkubeError
from smallkube.core.polling import wait_until
from smallkube.deploy import checks
from smallkube.deploy import facts as deploy_facts
from smallkube.deploy.plan import Options
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import kubectl, versions
from smallkube.kube.kubectl import Api
from smallkube.kube.versions import Deprecated
from smallkube.nix.bundle import Bundle
from smallkube.operations import cluster_facts
from smallkube.operations.cluster_facts import API_SERVER, KUBELET, PROXY, Facts
from smallkube.operations.engine import Operation, Runbook, Step
from smallkube.remote import fleet
from smallkube.remote.host import Connect, Host
from smallkube.secrets.host_keys import read_host_key

RECENT = timedelta(days=1)
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Readiness:
    """What a deploy's own preflight finds: disk space, clock, host key. ``unfit``: why it would refuse, in words."""

    store_free_kib: int
    unfit: Sequence[str] = ()


def read(cluster: Cluster, connect: Connect) -> Facts[Readiness]:
    """Ask every machine, API server and etcd; only a workspace that can't be read raises SmallkubeError."""

    def ask(host: Host) -> Readiness:
        found = deploy_facts.of_deploy(host, Bundle({}))
        key = read_host_key(cluster.workspace, host.node.name)
        return Readiness(found.store_free, checks.unfit(found, time.time(), key))

    return cluster_facts.read(cluster, connect, ask, deprecated=True)


def server(inventory: Inventory, facts: Facts[Readiness]) -> str:
    """The API server's version: its own word, else that of the program that runs; "" when neither is known."""
    found = facts.machines[inventory.primary.name]
    program = "" if isinstance(found, SmallkubeError) else found.running.versions.get(API_SERVER, "")
    version = facts.api.version or program
    with suppress(SmallkubeError):
        versions.minor(version)
        return version
    return ""


def check(inventory: Inventory, facts: Facts[Readiness], now: datetime) -> tuple[Check, ...]:
    """Everything that speaks for or against an upgrade to the inventory's version: what failed forbids it."""
    target, runs = inventory.cluster.kubernetes, server(inventory, facts)
    same = runs and versions.minor(target) == versions.minor(runs)
    answers = [found.facts for found in facts.machines.values() if not isinstance(found, SmallkubeError)]
    free = min((answer.store_free_kib for answer in answers), default=0)
    table: Iterable[tuple[str, Iterable[str], str]] = (
        ("API server", facts.api_faults, f"answers and is ready, {runs}"),
        (
            "minor step",
            versions.step(target, runs) if runs else ["which version runs is not known"],
            f"none: {runs} runs already" if same else f"from {runs} to {target}",
        ),
        ("version skew", _skew_faults(inventory, facts, runs), "all kubelets and kube-proxies fit"),
        ("nodes", _node_faults(inventory, facts.api), f"all {len(inventory.nodes)} Ready"),
        ("machines", _machine_faults(facts), f"at least {free >> 20} GiB free in /nix/store; clocks agree"),
        ("etcd", *_etcd(facts.etcd)),
    )
    found = (Check.of("", name, faults, seen) for name, faults, seen in table)
    return (*found, _backup(facts.backup, now), *_deprecated(facts.deprecated, target))


def _skew_faults(inventory: Inventory, facts: Facts[Readiness], runs: str) -> Iterator[str]:
    """Versions as the machines have them running; of a node that can't be asked, what the API server knows."""
    others = {f"kubelet on {name}": member.kubelet for name, member in (facts.api.members or {}).items()}
    for node in inventory.nodes:
        found, name = facts.machines[node.name], inventory.addressing.node_host(node.index)
        if not isinstance(found, SmallkubeError):
            others |= {f"{unit} on {name}": found.running.versions.get(unit, "") for unit in (KUBELET, PROXY)}
    yield from (f"{name} does not run" for name, version in others.items() if not version)
    if not runs:
        yield "there is nothing to compare with"
    else:
        known = {name: version for name, version in others.items() if version}
        yield from versions.skew(inventory.cluster.kubernetes, runs, known)


def _node_faults(inventory: Inventory, api: Api) -> Iterator[str]:
    if api.members is None:
        yield "the API server could not be asked which are Ready"
        return
    expected = [inventory.addressing.node_host(node.index) for node in inventory.nodes]
    yield from (f"{name} is not in the cluster" for name in expected if name not in api.members)
    yield from (f"{name} is not Ready" for name, member in api.members.items() if not member.ready)


def _machine_faults(facts: Facts[Readiness]) -> Iterator[str]:
    for name, found in facts.machines.items():
        reasons = [found.message] if isinstance(found, SmallkubeError) else found.facts.unfit
        yield from (f"{name}: {reason}" for reason in reasons)


def _etcd(found: etcd_status.Status | SmallkubeError) -> tuple[Iterable[str], str]:
    if isinstance(found, SmallkubeError):
        return [str(found)], ""
    return etcd_status.problems(found), f"{found.version}, {found.size >> 20} MiB, no alarm"


def _backup(newest: Record | None, now: datetime) -> Check:
    if newest and now - newest.time <= RECENT:
        return Check("", "backup", Result.OK, f"{newest.name}, verified")
    found = f"the newest verified one is of {newest.created}" if newest else "none here that was verified"
    return Check("", "backup", Result.WARNING, f"{found} (inv etcd.backup)")


def _deprecated(found: tuple[Deprecated, ...] | SmallkubeError, target: str) -> Iterator[Check]:
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


@dataclass(frozen=True)
class Plan:
    """``runs``: the API server's version; ``stages``: the primary alone, then the workers in batches.

    ``back_up``: whether to begin with a backup. Not when the primary is upgraded already: it could not roll that back.
    """

    runs: str
    stages: tuple[tuple[Node, ...], ...]
    back_up: bool


def make(inventory: Inventory, facts: Facts[Readiness], batch: int) -> Plan:
    """The stages. Raises SmallkubeError when the guard (see ``inv cluster.upgrade-check``) forbids to begin."""
    if faults := [f"{each.check}: {each.detail}" for each in failed(check(inventory, facts, datetime.now(UTC)))]:
        hint = "inv cluster.upgrade-check says more"
        raise SmallkubeError(f"must not begin: {'; '.join(faults)}", where=inventory.cluster.name, hint=hint)
    runs, wanted = server(inventory, facts), versions.minor(inventory.cluster.kubernetes)
    kubelets = [versions.minor(member.kubelet) for member in (facts.api.members or {}).values()]
    half_way = versions.minor(runs) == wanted and any(kubelet != wanted for kubelet in kubelets)
    return Plan(runs, fleet.stages(inventory.nodes, batch), not half_way)


@dataclass
class Upgrade(Runbook):
    """Carries out ``plan``. ``smoke`` returns the checks that failed.

    ``settle``: for how many seconds after a stage a failed smoke test is repeated: what lost the API server comes back
    to it in its own time (CoreDNS and the controllers try ever more rarely). ``on_failure`` gets each failed one.

    ``version`` is known once it has ended: what runs now.
    """

    plan: Plan
    smoke: Callable[[], Sequence[str]]
    settle: int
    on_failure: Callable[[str], object]
    version: str = ""

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        steps = [Step("back up etcd and verify the backup", self.back_up)] if self.plan.back_up else []
        for stage in self.plan.stages:
            names = ", ".join(node.name for node in stage)
            steps.append(Step(f"deploy {names}", partial(self._deploy, stage)))
            steps.append(Step(f"smoke test after {names}", partial(self._smoke, stage)))
        return Operation(tuple(steps))

    def _deploy(self, stage: Sequence[Node]) -> None:
        """Raises SmallkubeError when the API server then has not the target's version."""
        self.deploy(stage, options=Options(batch=len(stage), upgrade=True))
        if self.version:
            return
        with self.connect(self.inventory.primary) as primary:
            self.version = kubectl.read(primary).version
        target, nixos = self.inventory.cluster.kubernetes, self.inventory.cluster.nixos
        if not self.version or versions.minor(self.version) != versions.minor(target):
            hint = f"does NixOS {nixos} have {target}? inv nix.render --update-lock"
            raise SmallkubeError(f"the API server runs {self.version or 'no version'}, not {target}", hint=hint)

    def _smoke(self, stage: Sequence[Node]) -> None:
        def failing() -> Sequence[str]:
            if bad := self.smoke():
                self.on_failure(f"smoke test failed: {', '.join(bad)}")
            return bad

        failure = f"after {', '.join(node.name for node in stage)} checks failed"
        hint = how_to_roll_back(stage, self.backup)
        wait_until(failing, self.settle, failure, hint=hint, interval=_PAUSE_SECONDS)


def how_to_roll_back(stage: Sequence[Node], backup: str) -> str:
    """What to do when a stage can't be repaired. etcd's contents are written by the newer API server by then."""
    nodes = " ".join(f"--node {node.name}" for node in stage)
    first = f"repair it and run the same command again; or roll back: inv deploy.rollback {nodes}"
    if any(node.role == "primary" for node in stage):
        restore = f"inv etcd.restore --name {backup or 'NAME'}"
        return f"{first}, then, if the older API server can't read what is in etcd, {restore}"
    return first
