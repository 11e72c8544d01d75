"""Replacing what is trusted while everybody goes on: certificates, and the key that signs service accounts' tokens."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.cli.keys import NODE
from smallkube.core.errors import UsageError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.operations.certificate_plan import Choice, Plan

__all__ = ["rotate_certificates", "rotate_issuer"]


@task(
    iterable=["node"],
    help={
        "node": NODE,
        "all": "also those that nothing is wrong with",
        "pause": "stop when everybody trusts the new ones, before they are used",
        "abort": "take back a rotation that has not ended",
        "no_deploy": "replace them in keys/ alone: for a cluster that does not run",
        "timeout": "seconds that pods and kubelets may take to follow",
        "dry_run": "print what would be issued, and the steps; change nothing",
        "yes": "do not ask",
        "json": "print the outcome as JSON",
    },
)
def rotate_certificates(
    _: Context,
    node: list[str],
    all: bool = False,
    pause: bool = False,
    abort: bool = False,
    no_deploy: bool = False,
    timeout: int = 300,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Replace certificates, without an outage.

    Those that keys.check complains about, and the keys beneath. New ones are deployed as trusted,
    then used; then the old ones are trusted no more. Programs in pods that read ca.crt only when
    they start must be restarted in between: --pause. Interrupted at any point, the same command
    goes on from there.
    """
    from smallkube.core import ui
    from smallkube.operations import certificate_plan as planning
    from smallkube.secrets import change, policy, staged
    from smallkube.secrets.store import changing_keys, read_keys

    if timeout < 1:
        raise UsageError(f"--timeout {timeout}: must be at least 1")
    here = current()
    workspace, inventory = here.workspace, here.inventory
    nodes = {item.name for item in inventory.select(words(node))}
    plan, choice = planning.under_way(inventory, read_keys(workspace), back=abort), None
    if plan is None:
        choice = planning.choose(workspace, inventory, nodes, everything=all, now=datetime.now(UTC))
        plan = planning.new(tuple(choice.renew))
    elif no_deploy:
        raise UsageError("a rotation is under way", hint="end it without --no-deploy, or --abort it")
    else:
        ui.message("a rotation is under way, and is ended first; for others, run it again afterwards")
    if dry_run or not plan.rows:
        steps = plan.steps if plan.rows and not no_deploy else ()
        _show_issued(plan, choice, "would issue" if dry_run else "issued", json, steps=steps)
        return
    ui.confirm(f"replace {', '.join(plan.files)}, and the keys beneath?", yes=yes)
    if no_deploy:
        with changing_keys(workspace):
            change.apply(workspace, inventory, staged.replaced(plan.rows, datetime.now(UTC)))
        _show_issued(plan, choice, "issued", json)
        ui.message("next: inv deploy, of all machines: each trusts exactly the certificates that it was deployed with")
    else:
        _rotate(here, plan, choice, pause, timeout, json)
    if policy.API_CERTIFICATE in plan.files:
        ui.message("kubeconfigs outside the cluster hold the old certificate: inv cluster.kubeconfig writes one anew")


def _rotate(here: "Current", plan: "Plan", choice: "Choice | None", pause: bool, timeout: int, json: bool) -> None:
    from smallkube.core import ui
    from smallkube.operations import downtime
    from smallkube.operations.certificates import Rotation
    from smallkube.remote.ssh import connector
    from smallkube.secrets.staged import Stage

    workspace, inventory, connect = here.workspace, here.inventory, connector(here.workspace)
    names = [node.name for node in inventory.nodes]
    with ui.Progress([*names, "certificates"]) as progress, downtime.counted(connect, inventory.primary) as counted:
        rotation = Rotation(workspace, inventory, connect, progress, timeout)
        reached = rotation.execute(plan, lambda text: progress.step("certificates", text), pause=pause)
        progress.done("certificates", "done")
    _show_issued(plan, choice, "taken back" if plan.back else "issued", json, reached=reached, outage=counted.as_json)
    ui.message(counted.words)
    if reached is Stage.TRUSTED:
        ui.message("paused: everybody trusts the new ones too, and the old ones are in use")
        ui.message("next: restart pods that read ca.crt only when they start, then run the same without --pause")


def _show_issued(plan: "Plan", choice: "Choice | None", verb: str, json: bool, **more: object) -> None:
    """``choice`` is None when a rotation that had begun went on."""
    from smallkube.core import ui

    why = choice.renew if choice else {}
    issued = [
        {"file": row.certificate.file, "why": "; ".join(why.get(row, ("its rotation had begun",)))}
        for row in plan.rows
        if row.certificate
    ]
    kept = choice.kept if choice else 0
    if json:
        ui.json_result({"issued": issued, "kept": kept, **more})
        return
    for one in issued:
        ui.result(f"{verb} keys/{one['file']}: {one['why']}")
    ui.result(f"{verb} {len(issued)}, kept {kept}")
    steps = more.get("steps")
    for line in steps if isinstance(steps, tuple) else ():
        ui.result(f"- {line}")


@task(
    help={
        "overlap": "seconds that programs may take to read their new token",
        "abort": "take back a rotation that has not ended",
        "timeout": "seconds that kubelets may take to replace their pods' tokens",
        "dry_run": "print the steps and touch nothing",
        "yes": "do not ask",
        "json": "print the outcome as JSON",
    },
)
def rotate_issuer(
    _: Context,
    overlap: int = 120,
    abort: bool = False,
    timeout: int = 300,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Replace the key that signs service accounts' tokens.

    The new key signs at once, tokens of the old one are accepted until no pod and no Secret has
    one. Pods go on; tokens made by `kubectl create token` must be made anew. Interrupted at any
    point, the same command goes on from there.
    """
    from smallkube.core import ui
    from smallkube.kube import token_clients
    from smallkube.operations import downtime
    from smallkube.operations import issuer as rotating
    from smallkube.remote.ssh import connector
    from smallkube.secrets.keyring import require_master
    from smallkube.secrets.store import read_keys

    if timeout < 1 or overlap < 0:
        raise UsageError(f"--timeout {timeout} --overlap {overlap}: must be at least 1 and 0")
    here = current()
    workspace, inventory = here.workspace, here.inventory
    connect = connector(workspace)
    with connect(inventory.primary) as primary:
        deployed = token_clients.deployed(primary)
    row = rotating.secret_of(inventory)
    plan = rotating.make(row, read_keys(workspace), deployed, back=abort, overlap=overlap)
    if plan.stage is not rotating.Stage.ONE:
        ui.message("a rotation is under way, and is ended")
    if dry_run:
        ui.json_result(plan.steps) if json else ui.result("\n".join(plan.steps))
        return
    master = require_master(workspace, "to tell the keys apart")
    ui.confirm("replace the key that signs service accounts' tokens?", yes=yes)
    names = [node.name for node in inventory.nodes]
    with ui.Progress([*names, "issuer"]) as progress, downtime.counted(connect, inventory.primary) as counted:
        rotation = rotating.Rotation(workspace, inventory, master, connect, progress, timeout)
        key = rotation.execute(plan, lambda text: progress.step("issuer", text))
        progress.done("issuer", "done")
    if json:
        ui.json_result({"key": key, "outage": counted.as_json})
    else:
        ui.result(f"tokens are signed by the key {key}, and those of no other are accepted")
    ui.message(counted.words)
