"""Whether an upgrade may begin, or go on to another minor: the inventory is compared with what runs, and nodes, pods,
etcd and backup are looked at.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from smallkube.core.checks import Check, Result
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks
from smallkube.deploy import facts as deploy_facts
from smallkube.etcd import status as etcd_status
from smallkube.etcd.record import Record
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory
from smallkube.kube import versions
from smallkube.kube.kubectl import Api
from smallkube.kube.versions import Deprecated
from smallkube.nix.bundle import Bundle
from smallkube.operations import cluster_facts, upgrade_path
from smallkube.operations.cluster_facts import API_SERVER, KUBELET, PROXY, Facts
from smallkube.remote.host import Connect, Host
from smallkube.secrets.host_keys import read_host_key

RECENT = timedelta(days=1)
NOTHING: Mapping[str, str] = MappingProxyType({})


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

    return cluster_facts.read(cluster, connect, ask, upgrading=True)


def server(inventory: Inventory, facts: Facts[Readiness]) -> str:
    """The API server's version: its own word, else that of the program that runs; "" when neither is known."""
    found = facts.machines[inventory.primary.name]
    program = "" if isinstance(found, SmallkubeError) else found.running.versions.get(API_SERVER, "")
    version = facts.api.version or program
    with suppress(SmallkubeError):
        versions.minor(version)
        return version
    return ""


def check(
    inventory: Inventory,
    facts: Facts[Readiness],
    now: datetime,
    packages: Mapping[str, str] = NOTHING,
    *,
    reversible: bool = True,
) -> tuple[Check, ...]:
    """Everything that speaks for or against an upgrade to the inventory's version: what failed forbids it.

    ``packages``: versions in the operator's configuration, as far as they are known. ``reversible``: each deploy must
    be able to roll back automatically.
    """
    target, runs = inventory.cluster.kubernetes, server(inventory, facts)
    passed = upgrade_path.minors(target, runs) if runs else (target,)
    same = runs and versions.minor(target) == versions.minor(runs)
    found_etcd = "" if isinstance(facts.etcd, SmallkubeError) else facts.etcd.version
    answers = [found.facts for found in facts.machines.values() if not isinstance(found, SmallkubeError)]
    free = min((answer.store_free_kib for answer in answers), default=0)
    table: Iterable[tuple[str, Iterable[str], str]] = (
        ("API server", facts.api_faults, f"answers and is ready, {runs}"),
        (
            "minor step",
            upgrade_path.faults(inventory, runs) if runs else ["which version runs is not known"],
            f"none: {runs} runs already" if same else f"from {runs} to {', then '.join(passed)}",
        ),
        ("version skew", _skew_faults(inventory, facts, passed[:1], runs), "all kubelets and kube-proxies fit"),
        ("nodes", _node_faults(inventory, facts.api), f"all {len(inventory.nodes)} Ready"),
        ("machines", _machine_faults(facts), f"at least {free >> 20} GiB free in /nix/store; clocks agree"),
        ("etcd", *_etcd(facts.etcd)),
        (
            "etcd versions",
            upgrade_path.etcd_faults(found_etcd, known(inventory, passed, packages), reversible=reversible),
            "each starts on the data of the one before, as far as they are known",
        ),
        ("disruption budgets", _budget_faults(facts.budgets), "none keeps a node from being drained"),
    )
    found = (Check.of("", name, faults, seen) for name, faults, seen in table)
    return (*found, _backup(facts.backup, now), *_deprecated(facts.deprecated, target))


def known(
    inventory: Inventory, minors: Sequence[str], packages: Mapping[str, str]
) -> tuple[tuple[str, Mapping[str, str]], ...]:
    """Each of ``minors`` with its packages' versions; ``packages``: those of the inventory's own."""
    own = inventory.cluster.kubernetes
    with suppress(SmallkubeError):
        between = {each: upgrade_path.known(upgrade_path.at(inventory, each).cluster) for each in minors if each != own}
        return tuple((each, between.get(each, packages)) for each in minors)
    return ()


def _budget_faults(found: tuple[str, ...] | SmallkubeError) -> Iterator[str]:
    if isinstance(found, SmallkubeError):
        yield f"can't be asked for: {found.message}"
    else:
        yield from (f"{name} allows no pod to be evicted now" for name in found)


def _skew_faults(inventory: Inventory, facts: Facts[Readiness], first: Sequence[str], runs: str) -> Iterator[str]:
    """``first``: the minor that raises all of them, if any. Versions as the machines have them running; of a node that
    can't be asked, what the API server knows.
    """
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
        yield from (fault for target in first for fault in versions.skew(target, runs, known))


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
