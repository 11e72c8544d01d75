"""The key that encrypts Secrets in etcd."""

from dataclasses import asdict

from invoke.context import Context

from smallkube.cli import output
from smallkube.cli.context import CHANGE, current, task
from smallkube.core import ui


@task(
    help={
        "abort": "undo a rotation under way: the previous key stays",
        "no-backup": "take no backup of etcd first",
        **CHANGE,
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
    """Rotate the key that encrypts Secrets in etcd.

    Takes and verifies a backup; adds the new key for reading, then makes it the
    one that encrypts; rewrites every Secret; verifies that etcd holds nothing
    under the previous key, and removes that. After an interruption the same
    command resumes.
    """
    from smallkube.operations import encryption as rotating
    from smallkube.operations.verified_backup import back_up
    from smallkube.secrets.keyring import require_master

    here = current()
    workspace, inventory = here.workspace, here.inventory
    master = require_master(workspace, "to change the encryption key")
    rotation = rotating.Rotation(workspace, inventory, master, here.connect)
    plan = rotation.plan(back=abort)
    if dry_run:
        backup = () if no_backup else ("take a backup of etcd, and verify it",)
        output.show_steps((*backup, *plan.steps), json=json)
        return
    ui.confirm("replace the key that encrypts Secrets in etcd?", yes=yes)
    with output.operation(here, "encryption", downtime=True) as running:
        if not no_backup:
            running.step("back up etcd")
            back_up(workspace, inventory, master)
        outcome = rotation.execute(plan, running.progress, running.step)
    text = f"{outcome.key} encrypts all {sum(outcome.stored.values())} objects in etcd"
    output.show_operation(asdict(outcome), text, running, json=json)
    ui.message("commit keys/: earlier backups need the previous key, which is in its git history")
