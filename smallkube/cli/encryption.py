"""The key that encrypts Secrets in etcd: replace it while everything stays readable."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task
from smallkube.core.errors import SmallkubeError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.secrets.age import Master

__all__ = ["rotate"]


@task(
    help={
        "abort": "take back a rotation that has not ended: the old key stays",
        "no-backup": "take no backup of etcd before",
        "dry-run": "print the steps and touch nothing",
        "yes": "do not ask",
        "json": "print the outcome as JSON",
    }
)
def rotate(
    _: Context,
    abort: bool = False,
    no_backup: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Replace the key that encrypts Secrets in etcd.

    A backup first; then the new key beside the old, then first; every Secret written again;
    etcd searched for the old key; the old key removed. Interrupted at any point, the same
    command goes on from there.
    """
    from smallkube.core import ui
    from smallkube.operations import downtime
    from smallkube.operations import encryption as rotating
    from smallkube.remote.ssh import connector
    from smallkube.secrets.keyring import require_master

    here = current()
    inventory = here.inventory
    master = require_master(here.workspace, "to change the encryption key")
    connect = connector(here.workspace)
    rotation = rotating.Rotation(here.workspace, inventory, master, connect)
    plan = rotation.plan(back=abort)
    backup = () if no_backup else ("take a backup of etcd, and verify it",)
    if dry_run:
        ui.json_result((*backup, *plan.steps)) if json else ui.result("\n".join((*backup, *plan.steps)))
        return
    ui.confirm("replace the key that encrypts Secrets in etcd?", yes=yes)
    names = [node.name for node in inventory.nodes]
    with ui.Progress([*names, "encryption"]) as progress, downtime.counted(connect, inventory.primary) as counted:
        if not no_backup:
            progress.step("encryption", "back up etcd")
            back_up(here, master)
        outcome = rotation.execute(plan, progress, lambda text: progress.step("encryption", text))
        progress.done("encryption", "done")
    if json:
        ui.json_result({**asdict(outcome), "outage": counted.as_json})
    else:
        ui.result(f"{outcome.key} encrypts all {sum(outcome.stored.values())} objects in etcd")
    ui.message(counted.words)
    ui.message("commit keys/: backups from before need the former key, which is in its git history")


def back_up(here: "Current", master: "Master") -> str:
    """Take a backup of etcd and verify it; its name. Raises SmallkubeError when it is not sound."""
    from smallkube.cli.etcd import reach
    from smallkube.etcd import catalog, host, run, verify

    now = datetime.now(UTC)
    wanted = run.request(here.workspace, here.inventory, now, host.Source(), older=False)
    primary = here.inventory.primary
    report = run.run(here.workspace, here.inventory, lambda: reach(here, primary, False), wanted, lambda _: None)
    with run.locked(catalog.folder_of(here.workspace, here.inventory)) as there:
        findings = verify.verify(there, [there.find(report.record.name)], master, now)
    if bad := [finding.detail for finding in findings if finding.result == "failed"]:
        raise SmallkubeError(f"nothing was changed: the backup is not sound: {bad[0]}", where=report.record.name)
    return report.record.name
