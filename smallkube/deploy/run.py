"""Carries out a plan: stage after stage, the machines of a stage in parallel."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import lock
from smallkube.deploy import drain, local_build
from smallkube.deploy.barrier import Barrier
from smallkube.deploy.node import DeployContext, NodeDeploy
from smallkube.deploy.plan import Plan
from smallkube.deploy.report import Outcome, Report, Watcher, reason_of
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix.bundle import Bundle
from smallkube.remote import fleet


def execute(plan: Plan, bundle: Bundle, cluster: Cluster, watcher: Watcher) -> tuple[Report, ...]:
    """Deploy; the reports are in the plan's order. No stage begins after more than the tolerated nodes failed.

    Ctrl-C ends every node at its next step; what is armed by then goes back.
    """
    stop = threading.Event()
    group = Barrier([node.name for node in plan.nodes] if plan.together else [])
    job = DeployContext(
        plan,
        bundle,
        cluster,
        watcher,
        stop,
        group,
        drain.turns(plan.options.batch or 1),
        local_build.turns(),
    )
    failures = 0

    def should_continue(done: Sequence[fleet.Outcome[Report]]) -> bool:
        nonlocal failures
        failures += sum(outcome.value is None or not outcome.value.good for outcome in done)
        return failures <= plan.options.max_failures

    def work(node: Node) -> Report:
        began = time.monotonic()
        try:
            with lock(cluster.workspace.state_dir / "locks" / node.name, f"deploying to {node.name}"):
                report = NodeDeploy(job, node).execute()
        except SmallkubeError as error:
            report = Report(node.name, Outcome.FAILED, reason=reason_of(error))
        group.leave(node.name, "" if report.good else report.outcome)
        watcher.done(node.name, report.outcome)
        return replace(report, seconds=round(time.monotonic() - began, 1))

    outcomes = fleet.run(
        plan.stages,
        work,
        should_continue=should_continue,
        stop=stop,
        at_once=len(plan.nodes) if plan.together else fleet.MAX_PARALLEL,
    )
    untouched = "interrupted" if stop.is_set() else "an earlier node failed"
    return tuple(outcome.value or Report(outcome.node.name, Outcome.NOT_RUN, reason=untouched) for outcome in outcomes)
