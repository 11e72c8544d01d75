"""Replacing the identity that reads every secret."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.operations.master import Plan, Reissue

__all__ = ["rotate_master"]


@task(
    help={
        "drop_old": "remove the old identity from keys/master_key (of a rotation that has ended)",
        "dry_run": "show what would be done, change nothing",
        "yes": "do not ask",
        "json": "print JSON",
    }
)
def rotate_master(
    _: Context, drop_old: bool = False, dry_run: bool = False, yes: bool = False, json: bool = False
) -> None:
    """Replace the identity that reads every secret.

    Puts a new one above the old in keys/master_key and re-encrypts all of keys/. The
    old one stays, for the backups made before, until you run it with --drop-old. Says
    what must be made anew if the old one fell into wrong hands.
    """
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.operations import master as rotating

    here = current()
    workspace, inventory = here.workspace, here.inventory
    done: tuple[str, ...] = ()
    with keys_output.changing(workspace):
        planned = rotating.plan(workspace, inventory)
        if not dry_run and drop_old and planned.stage is rotating.Stage.BOTH:
            _ask_drop(here, planned, yes)
        elif not dry_run and not drop_old and planned.stage is not rotating.Stage.BOTH:
            ui.confirm("replace the master identity?", yes=yes)
        if dry_run:
            done = planned.old if drop_old else planned.files
        else:
            done = rotating.drop(workspace, planned) if drop_old else rotating.act(workspace, inventory, planned)
        after = planned if dry_run else rotating.plan(workspace, inventory)
    affected = rotating.reissue(inventory, tuple(path.name for path in workspace.keys_dir.glob("*.age")))
    if json:
        found = {"dropped" if drop_old else "rekeyed": done, "stage": after.stage, "master": after.master}
        backups = [] if dry_run else _backups(here, after.master)
        ui.json_result({**found, "old": after.old, "reissue": [asdict(row) for row in affected], "backups": backups})
        return
    if drop_old:
        _show_dropped(done, dry_run)
    else:
        _show_rotated(here, planned, after, done, dry_run)
        _show_affected(affected)
    if planned.stray:
        ui.warn(f"not re-encrypted, no secrets of this inventory: {', '.join(planned.stray)} (inv keys.check)")


def _backups(here: "Current", master: str) -> list[str]:
    """Names of the backups here that ``master`` does not open."""
    from smallkube.etcd import catalog

    there = catalog.read(catalog.folder_of(here.workspace, here.inventory))
    return [record.name for record in there.records if record.recipient != master]


def _ask_drop(here: "Current", planned: "Plan", yes: bool) -> None:
    from smallkube.core import ui

    backups = _backups(here, planned.master)
    if backups:
        ui.warn(f"{len(backups)} backups here ({backups[0]} to {backups[-1]}) can't be opened without it")
    ui.warn("keys/ as git history has it from before, and backups elsewhere, can't be opened without it either")
    ui.confirm("remove the old identity from keys/master_key?", yes=yes)


def _show_dropped(dropped: tuple[str, ...], dry_run: bool) -> None:
    from smallkube.core import ui

    verb = "would remove" if dry_run else "removed"
    for recipient in dropped:
        ui.result(f"{verb} the identity of {recipient}")
    if not dropped:
        ui.result("keys/master_key holds no identity but the master")


def _show_rotated(here: "Current", planned: "Plan", after: "Plan", done: tuple[str, ...], dry_run: bool) -> None:
    from smallkube.core import ui
    from smallkube.operations.master import Stage

    if planned.stage is Stage.BOTH:
        ui.result(f"nothing to do: {planned.master} is the master already, and an older identity is below it")
        ui.message("inv keys.rotate-master --drop-old removes the older one; only then can another one be made")
    else:
        for name in done:
            ui.result(f"{'would re-encrypt' if dry_run else 're-encrypted'} keys/{name}")
    if dry_run:
        return
    if planned.stage is not Stage.BOTH:
        ui.result(f"the master is now {after.master}")
        ui.warn("keep a copy of keys/master_key in a safe place; commit keys/")
        ui.message("no machine needs the new files; the next deploy brings them, and restarts what uses a secret")
    backups = len(_backups(here, after.master))
    ui.message(f"the old identity stays in keys/master_key: {backups} backups here are encrypted to it alone")
    ui.message("when they are no longer wanted: inv etcd.backup, then inv keys.rotate-master --drop-old")


def _show_affected(affected: "tuple[Reissue, ...]") -> None:
    from smallkube.core import ui

    ui.message("whoever has the old identity and git history can read all of this; if that may be, replace it:")
    for row in affected:
        ui.message(f"  {row.command}\n    ({', '.join(row.names)})")
    ui.message("with a backup of etcd as well: every Secret in the cluster; change those where they come from")
