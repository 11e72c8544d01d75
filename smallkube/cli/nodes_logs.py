"""The journals of the machines."""

import threading
from typing import Annotated

from smallkube.cli.context import SELECTION, Current, Limits, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError

LINES = 100


@task(*SELECTION)
def logs(
    here: Current,
    unit: Annotated[str, "such as kubelet or etcd.service"],
    follow: Annotated[bool, "also show what is appended, until Ctrl-C"] = False,
    since: Annotated[str | None, "only the last 90s, 30m, 2h or 7d (default: since the machine started)"] = None,
    lines: Annotated[int, Limits(0, 100_000), "at most so many of each node (0: 100, or all with --since)"] = 0,
) -> None:
    """Show the journal of a unit on the nodes.

    The oldest line first, each with the name of its node, times in UTC:
    inv nodes.logs kubelet --since 1h
    inv nodes.logs etcd --node node1 -f
    """
    from smallkube.core import durations
    from smallkube.operations import logs as journals
    from smallkube.remote.fleet import raise_errors

    seconds = durations.seconds(since, "--since") if since else 0
    wanted = journals.Wanted(unit, lines or (0 if since else LINES), seconds)
    stop = threading.Event()

    def show(node: str, line: str) -> None:
        ui.result(f"{node}: {line}")
        if follow:
            ui.flush()

    if follow:
        outcomes = journals.follow(here.nodes, here.connect, wanted, show, stop, lambda error: ui.warn(str(error)))
        if stop.is_set():
            ui.flush()  # raises where the reader has gone
        elif lost := [outcome.node.name for outcome in outcomes if outcome.error]:
            raise SmallkubeError(f"not followed to the end: {', '.join(lost)}")
        return
    outcomes = journals.read(here.nodes, here.connect, wanted, show)
    for outcome in outcomes:
        if outcome.value == 0:
            ui.message(f"{outcome.node.name}: no entries of {unit}")
    raise_errors(outcomes)
