"""API tokens: replace them while everybody goes on, and see who uses which."""

from dataclasses import asdict
from datetime import UTC, datetime

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.core.errors import SmallkubeError, UsageError

__all__ = ["rotate", "status"]


@task(
    iterable=["user"],
    help={
        "user": "root, kube-scheduler, kube-controller-manager, nodeN (repeatable)",
        "all": "everybody",
        "abort": "take back a rotation that has not ended",
        "timeout": "seconds that clients may take to use their new token",
        "dry-run": "print the steps and touch nothing",
        "yes": "do not ask",
        "json": "print the outcome as JSON",
    },
)
def rotate(
    _: Context,
    user: list[str],
    all: bool = False,
    abort: bool = False,
    timeout: int = 120,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Replace API tokens without an outage for their users.

    New beside old, deployed; every client seen with the new one; the old ones removed, deployed,
    and seen refused. Interrupted at any point, the same command goes on from there.
    """
    from smallkube.core import ui
    from smallkube.kube import token_clients, token_users
    from smallkube.operations import downtime
    from smallkube.operations import tokens as rotating
    from smallkube.remote.ssh import connector
    from smallkube.secrets.keyring import require_master
    from smallkube.secrets.store import read_keys

    if timeout < 1:
        raise UsageError(f"--timeout {timeout}: must be at least 1")
    here = current()
    workspace, inventory = here.workspace, here.inventory
    everybody = token_users.all_users(inventory)
    wanted = token_users.select(inventory, words(user), everybody=all or abort)
    connect = connector(workspace)
    with connect(inventory.primary) as primary:
        deployed = token_clients.deployed(primary)
    plan = rotating.make(read_keys(workspace), wanted, everybody, deployed, back=abort)
    if plan.between or plan.ending:
        ui.message("a rotation is under way, and is ended first; for others, run it again afterwards")
    if dry_run:
        ui.json_result(plan.steps) if json else ui.result("\n".join(plan.steps))
        return
    master = require_master(workspace, "to try tokens")
    ui.confirm(f"replace API tokens ({', '.join(one.short for one in plan.users) or 'the last step'})?", yes=yes)
    names = [node.name for node in inventory.nodes]
    with ui.Progress([*names, "tokens"]) as progress, downtime.counted(connect, inventory.primary) as counted:
        rotation = rotating.Rotation(workspace, inventory, master, connect, progress, timeout)
        outcome = rotation.execute(plan, lambda text: progress.step("tokens", text))
        progress.done("tokens", "done")
    if json:
        ui.json_result({**asdict(outcome), "outage": counted.as_json})
    else:
        ui.result(f"current tokens accepted, former ones refused: {', '.join(outcome.rotated) or 'as deployed'}")
    ui.message(counted.words)
    if "root" in outcome.rotated:
        ui.message("kubeconfigs outside the cluster hold root's former token: inv cluster.kubeconfig writes one anew")


@task(help={"json": "print it as JSON"})
def status(_: Context, json: bool = False) -> None:
    """Show each token's age, and which clients use which."""
    from smallkube.core import ui
    from smallkube.kube import token_clients, token_users
    from smallkube.operations import token_status as looking
    from smallkube.remote.ssh import connector
    from smallkube.secrets.keyring import read_master
    from smallkube.secrets.store import read_keys

    here = current()
    found, silent = token_clients.holders(here.inventory, connector(here.workspace))
    everybody, master = token_users.all_users(here.inventory), read_master(here.workspace)
    rows = looking.rows(here.workspace, read_keys(here.workspace), everybody, master, found, datetime.now(UTC))
    if json:
        ui.json_result({"tokens": [asdict(row) for row in rows], "silent": silent})
    else:
        table = [(row.user, f"{row.days} d", "yes" if row.overlap else "no", _clients(row.clients)) for row in rows]
        ui.table(("USER", "AGE", "OVERLAP", "CLIENTS"), table)
    if silent:
        raise SmallkubeError("not asked: " + ", ".join(f"{node} ({why})" for node, why in silent.items()))


def _clients(clients: dict[str, str]) -> str:
    return ", ".join(f"{client}: {word}" for client, word in clients.items()) or "-"
