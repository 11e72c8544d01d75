"""Cleaning machines up: what they no longer need, and what is left on one that is no node any more."""

import threading
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, SELECTION, Current, Limits, task
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smallkube.operations.gc import Freed


@task(*SELECTION, *CHANGE, "wide")
def gc(
    here: Current,
    keep: Annotated[int, Limits(1, 1000), "generations to keep (default: 5), the newest ones"] = 5,
    images: Annotated[bool, "also remove container images that no container uses (default)"] = True,
) -> None:
    """Remove old generations and unused images.

    On all nodes at once: old systems with their boot entries, what only they need
    in the Nix store, and images. Never the system that runs, that was booted or
    that a rollback returns to. Shows first what each node can do without, and
    asks. Refuses a node whose deploy is not confirmed yet.
    """
    from smallkube.operations import gc as cleaning

    nodes, stop = here.nodes, threading.Event()
    output.announce(here, nodes)
    with ui.Progress([node.name for node in nodes]) as progress:
        planned = cleaning.plan(nodes, here.connect, keep, images, progress, stop)
    if here.dry_run or not any(each.something for each in planned):
        _show(here, planned)
        return
    for each in planned:
        ui.message(f"- {each.node}: {_words(each)}")
    ui.confirm("remove that?", yes=here.yes)
    with ui.Progress([each.node for each in planned if each.something]) as progress:
        done = cleaning.execute(planned, nodes, here.workspace, here.connect, keep, progress, stop)
    _show(here, done)


def _words(each: "Freed") -> str:
    if not each.good:
        return f"stays as it is: {each.reason}"
    generations = listed(each.generations) or "none"
    store, images = f"{each.paths} store paths, {ui.size(each.store_bytes)}", ui.size(each.image_bytes)
    return f"generations: {generations}; {store}; {each.images} images, at most {images}"


def _show(here: Current, rows: "Sequence[Freed]") -> None:
    """The table. Raises SmallkubeError when a node failed."""
    cells = [
        (
            each.node,
            each.outcome,
            len(each.generations) or "-",
            ui.size(each.store_bytes) if each.paths else "-",
            f"{each.images} ({ui.size(each.image_bytes)})" if each.images else "-",
            each.reason,
        )
        for each in rows
    ]
    output.table(here, rows, ("NODE", "OUTCOME", "GENERATIONS", "STORE", "IMAGES", "REASON"), cells)
    if bad := [each for each in rows if not each.good]:
        raise SmallkubeError(", ".join(f"{each.node} {each.outcome}" for each in bad))
