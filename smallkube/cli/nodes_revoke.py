"""`inv nodes.remove NODE --revoke`: a compromised node is put out."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from smallkube.cli import Current

if TYPE_CHECKING:
    from smallkube.operations.revoke import Outcome, Plan


def revoke(here: Current, name: str, *, yes: bool, dry_run: bool, json: bool) -> None:
    """Ask, and do it; with ``dry_run`` show the steps.

    Raises SmallkubeError when a step failed, or something is left to be done by hand.
    """
    from smallkube.core import ui
    from smallkube.operations import revoke as revoking
    from smallkube.remote.ssh import connector
    from smallkube.secrets.keyring import require_master

    plan = revoking.make(here.workspace, here.inventory, name)
    if dry_run:
        ui.json_result(plan.steps) if json else ui.result("\n".join(plan.steps))
        return
    master = require_master(here.workspace, "to try the node's token")
    ui.confirm(f"put {name} out of the cluster, and end its pods?", yes=yes)
    others = [node.name for node in here.inventory.nodes if node.name != name]
    with ui.Progress([*others, name]) as progress:
        revocation = revoking.Revocation(here.workspace, master, connector(here.workspace), progress)
        outcome = revocation.execute(plan, here.inventory, lambda text: progress.step(name, text))
        progress.done(name, "out")
    if json:
        ui.json_result(asdict(outcome))
    else:
        ui.result(f"{name} is out: its token is refused, no other machine has its WireGuard key")
        for file in outcome.removed:
            ui.result(f"removed keys/{file}")
    _show_rest(plan, outcome)


def _show_rest(plan: "Plan", outcome: "Outcome") -> None:
    """What no command can know or do."""
    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError
    from smallkube.operations.master import commands

    name = outcome.node
    if outcome.exposed is None:
        ui.warn("the API server did not run: which Secrets the pods on it used is not known")
    elif outcome.exposed:
        ui.warn(f"pods on {name} used these Secrets, change them where they come from: {', '.join(outcome.exposed)}")
    ui.message(f"so could pods that ran on {name} earlier; commit inventory.yaml, keys/ and nix/")
    ui.message(f"the machine itself is as it was: take it off the network; nix/hosts/{name}.nix is left")
    if plan.shared:
        details = "; ".join(f"{row.command} ({', '.join(row.names)})" for row in commands(list(plan.shared)))
        raise SmallkubeError(
            f"{name} is out, but keys/ had let it read more than its own", hint=f"replace it: {details}"
        )
