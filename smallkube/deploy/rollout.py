"""A deploy as one step of something larger: rendered, prepared, carried out, and an error unless all went well."""

from collections.abc import Sequence

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import prepare, run
from smallkube.deploy.plan import Goal, Options
from smallkube.deploy.report import Report, Watcher
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import render

UNDRAINED = Options(drain=False)
"""For changes that restart no pods."""


def roll_out(
    cluster: Cluster,
    nodes: Sequence[Node],
    watcher: Watcher,
    options: Options = UNDRAINED,
    *,
    goal: Goal = Goal.SWITCH,
) -> tuple[Report, ...]:
    """Bring what the workspace holds now to ``nodes``, the primary first.

    Raises SmallkubeError when a machine was not deployed to: the same again goes on from there.
    """
    render.plan(cluster).apply()
    plan, bundle = prepare.prepare(cluster, nodes, goal, options)
    reports = run.execute(plan, bundle, cluster, watcher)
    if bad := [f"{one.node} {one.outcome}: {one.reason}" for one in reports if not one.good]:
        raise SmallkubeError(f"not everything was deployed: {'; '.join(bad)}", hint="run the same command again")
    return reports
