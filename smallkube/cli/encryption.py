"""The key that encrypts Secrets in etcd."""

from typing import Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, task
from smallkube.core import ui


@task(*CHANGE)
def rotate(
    here: Current,
    abort: Annotated[bool, "undo a rotation under way: the previous key stays"] = False,
    no_backup: Annotated[bool, "take no backup of etcd first"] = False,
) -> None:
    """Rotate the key that encrypts Secrets in etcd.

    Takes and verifies a backup; adds the new key for reading, then makes it the
    one that encrypts; rewrites every Secret; verifies that etcd holds nothing
    under the previous key, and removes that: earlier backups need it, so git
    must have it where keys/ is in git. After an interruption the same command
    resumes.
    """
    from smallkube.operations import encryption as rotating
    from smallkube.secrets.age import require_master

    runner = output.Runner(here, "encryption")
    master = require_master(here.workspace, "to change the encryption key")
    rotation = rotating.Rotation(here.cluster, master, here.connect, runner.deploy, not no_backup)
    operation = rotation.operation(runner.keys, abort=abort)
    if not rotation.in_git:
        ui.warn("keys/ is not in git, and the retired key is deleted: keep a copy of keys/, which earlier backups need")
    if not runner.run(operation, "replace the key that encrypts Secrets in etcd?"):
        return
    objects = f"all {sum(rotation.stored.values())} objects" if rotation.stored else "the objects"
    text = f"{rotation.key} encrypts {objects} in etcd"
    runner.show({"key": rotation.key, "rewritten": rotation.rewritten, "stored": rotation.stored}, text)
    if rotation.in_git:
        ui.message("commit keys/: earlier backups need the previous key, which is in its git history")
