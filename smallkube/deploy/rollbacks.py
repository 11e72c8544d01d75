"""A rollback across a minor of Kubernetes: never a kubelet newer than the API server, and one minor at a time.

Source: kubernetes.io/releases/version-skew-policy.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from smallkube.core.errors import ErrorGroup, UsageError, listed
from smallkube.deploy import facts, preflight
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.host import Connect, Host

_UPGRADE = "run `inv cluster.upgrade`"


def refuse_skew(cluster: Cluster, nodes: Sequence[Node], generation: str, connect: Connect) -> None:
    """Raise ErrorGroup when the minors of ``nodes`` in that generation, "" for the previous, don't fit the others'.

    Machines that can't be asked, and generations whose configuration is not there any more, have no say.
    """
    names = {node.name for node in nodes}

    def ask(host: Host) -> tuple[str, str]:
        there = facts.deployed(host)
        now = _minor(preflight.last_values(there))
        if host.node.name not in names:
            return now, now
        system = facts.generations(host).find(generation)
        digest = next((entry.digest for entry in there.effective if entry.system == system), "")
        return now, _minor(preflight.values_of(there, digest))

    outcomes = fleet.ask(cluster.inventory.nodes, connect, ask)
    found = {outcome.node.name: outcome.value for outcome in outcomes if outcome.value}
    known = {name: pair for name, pair in found.items() if all(pair)}
    if problems := [*faults(known, cluster.inventory.primary.name)]:
        raise ErrorGroup(problems)


def _minor(values: Mapping[str, str]) -> str:
    found = values.get(preflight.RENDERED["cluster.kubernetes"], "")
    return found if re.fullmatch(r"1\.\d{1,4}", found) else ""


def faults(minors: Mapping[str, tuple[str, str]], primary: str) -> Iterator[UsageError]:
    """``minors``: node → its minor now, and after the rollback, in which the primary comes first."""
    if primary not in minors:
        return
    now, after = minors[primary]
    if _number(after) > _number(now):
        yield UsageError(f"would change Kubernetes from {now} to {after}", where=primary, hint=_UPGRADE)
    if _number(now) - _number(after) > 1:
        hint = "roll back one minor at a time: --generation, see inv deploy.history"
        yield UsageError(f"would change Kubernetes from {now} to {after}", where=primary, hint=hint)
    newer = [name for name, (has, _) in minors.items() if name != primary and _number(has) > _number(after)]
    if newer and _number(after) < _number(now):
        hint = f"roll back these first: inv deploy.rollback {' '.join(f'--node {name}' for name in newer)}"
        yield UsageError(f"would have {after}, older than the kubelets of {listed(newer)}", where=primary, hint=hint)
    for name, (_, wanted) in minors.items():
        if name != primary and _number(wanted) > _number(now):
            problem = f"would have Kubernetes {wanted}, newer than the API server ({now})"
            yield UsageError(problem, where=name, hint=_UPGRADE)


def _number(minor: str) -> int:
    return int(minor.partition(".")[2])
