"""The cluster after a loss: a new primary in the place of one that is gone."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.operations.rebuild import Plan

__all__ = ["rebuild_primary"]


@task(
    help={
        "backup": "the backup, as etcd.list shows it (default: the newest)",
        "host-key": "fingerprint SHA256:… that the new machine's own console shows",
        "timeout": "seconds that all nodes may take to be Ready",
        "dry-run": "print the steps and touch nothing",
        "yes": "do not ask; a new host key needs --host-key then",
        "json": "print the outcome as JSON",
    }
)
def rebuild_primary(
    _: Context,
    backup: str | None = None,
    host_key: str | None = None,
    timeout: int = 300,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Make a new machine the primary that was lost.

    Install NixOS on it, let your SSH key in, put its address into inventory.yaml, and run this.
    Workers and their pods carry on: etcd has the backup before the API server first answers.
    Interrupted at any point, the same command goes on from there.
    """
    from smallkube.cli.etcd_restore import check_encryption_key
    from smallkube.core import ui
    from smallkube.operations import rebuild as rebuilding
    from smallkube.secrets.keyring import require_master

    if timeout < 1:
        raise UsageError(f"--timeout {timeout}: must be at least 1")
    here = current()
    here.inventory  # noqa: B018 - what is wrong with it is said first
    master = require_master(here.workspace, "to open backups and to re-encrypt")
    plan = _plan(here, backup, timeout)
    check_encryption_key(here, plan.record)
    if host_key:
        rebuilding.check_fingerprint(plan.scanned, host_key)
    if dry_run:
        ui.json_result(plan.steps) if json else ui.result("\n".join(plan.steps))
        return
    for text in plan.steps:
        ui.message(f"- {text}")
    if plan.new_key and not host_key and yes:
        details = plan.scanned.key.fingerprint if plan.scanned.key else ""
        hint = f"compare it on the machine's console, then give --host-key {details}"
        raise UsageError(f"its host key is not the one in keys/hosts: {details}", where=plan.primary.name, hint=hint)
    ui.confirm(f"make this machine the primary, from {plan.record.name}?", yes=yes)
    with ui.Progress([*(node.name for node in here.inventory.nodes), "primary"]) as progress:
        rebuild = rebuilding.Rebuild(here.workspace, here.inventory, master, progress)
        outcome = rebuild.execute(plan, lambda text: progress.step("primary", text))
        progress.done("primary", "done")
    if json:
        ui.json_result(asdict(outcome))
    else:
        ui.result(f"{plan.primary.name} is the primary again, with the data of {outcome.backup}; all nodes are Ready")
    ui.message("what was made after that backup is gone; next: inv cluster.smoke, inv etcd.backup, commit keys/")
    ui.message("inv deploy brings the other machines what was encrypted anew")
    if outcome.unrestarted:
        details = "; ".join(f"{node}: {reason}" for node, reason in outcome.unrestarted.items())
        hint = "systemctl restart kubelet kube-proxy coredns there"
        raise SmallkubeError(f"rebuilt, but not restarted: {details}", hint=hint)


def _plan(here: "Current", backup: str | None, seconds: int) -> "Plan":
    """Raises UsageError without a backup or an answer of the machine: nothing has been changed."""
    from smallkube.etcd import catalog, restore
    from smallkube.operations.rebuild import Plan
    from smallkube.secrets import scan

    inventory = here.inventory
    record = catalog.read(catalog.folder_of(here.workspace, inventory)).find(backup)
    restore.check_cluster(record, inventory.cluster.name, other=False)
    (scanned,) = scan.scan(here.workspace, [inventory.primary], 10, lambda _node, _outcome: None)
    if scanned.state is scan.State.FAILED:
        raise SmallkubeError(f"its host key can't be read: {scanned.reason}", where=inventory.primary.name)
    return Plan(record, inventory.primary, inventory.workers, scanned, seconds)
