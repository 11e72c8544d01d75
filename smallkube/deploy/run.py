"""Executes a plan: stage after stage, the nodes of a stage in parallel."""

from collections.abc import Sequence
from contextlib import nullcontext

from smallkube.core.errors import SmallkubeError
from smallkube.core.files import lock
from smallkube.deploy.node import DeployContext, NodeDeploy
from smallkube.deploy.plan import Goal, Options, Plan, Report, prepare
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import render
from smallkube.remote import fleet
from smallkube.remote.fleet import NodeOutcome, Watcher
from smallkube.remote.pool import Pool
from smallkube.remote.ssh import connector

UNDRAINED = Options(drain=False)
"""For changes that restart no pods."""


def roll_out(
    cluster: Cluster,
    nodes: Sequence[Node],
    watcher: Watcher,
    options: Options = UNDRAINED,
    *,
    goal: Goal = Goal.SWITCH,
    pool: Pool | None = None,
) -> tuple[Report, ...]:
    """A deploy as one step of an operation: render, prepare and execute; the primary first.

    Raises SmallkubeError when a node was not deployed to: to resume is to run the same again.
    """
    render.plan(cluster).apply()
    connect = pool.connect if pool else None
    reports = execute(prepare(cluster, nodes, goal, options, connect=connect), cluster, watcher, pool)
    if bad := [f"{one.node} {one.outcome}: {one.reason}" for one in reports if not one.good]:
        raise SmallkubeError(f"not everything was deployed: {'; '.join(bad)}", hint="run the same command again")
    return reports


def execute(plan: Plan, cluster: Cluster, watcher: Watcher, pool: Pool | None = None) -> tuple[Report, ...]:
    """Deploy; the reports are in the plan's order. No stage begins after more than the tolerated nodes failed.

    Ctrl-C ends every node at its next step; a node whose rollback is armed by then rolls back. ``pool`` has connections
    that can be used; by default those of this deploy end with it.
    """
    with nullcontext(pool) if pool else Pool(connector(cluster.workspace)) as connections:
        return _execute(plan, cluster, watcher, DeployContext(plan, cluster, watcher, connections))


def _execute(plan: Plan, cluster: Cluster, watcher: Watcher, context: DeployContext) -> tuple[Report, ...]:

    def work(node: Node) -> Report:
        report = Report(node.name, NodeOutcome.FAILED)
        try:
            with lock(cluster.workspace.state_dir / "locks" / node.name, f"deploying to {node.name}"):
                report = NodeDeploy(context, node).execute()
                return report
        finally:
            context.barrier.leave(node.name, "" if report.good else report.outcome)

    return fleet.report(
        plan.stages,
        work,
        watcher,
        context.stop,
        kind=Report,
        max_failures=plan.options.max_failures,
        at_once=len(plan.nodes) if plan.lockstep else fleet.MAX_PARALLEL,
    )
