"""Backups of etcd: taken and proven, listed, checked, thinned out, and put into a timetable."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.etcd.record import Record
    from smallkube.etcd.run import Report
    from smallkube.inventory.models import Node
    from smallkube.remote.host import Host

__all__ = ["backup", "list_", "prune", "schedule", "verify"]

UNTOUCHED = "no earlier backup was touched"


@task(
    help={
        "local": "this machine is the primary: no SSH (for cron there)",
        "allow-older-revision": "also when etcd is at a lower revision than in the last backup",
        "timeout": "seconds that each question to etcd may take",
        "endpoint": "where etcd answers on the primary (default: its unix socket)",
        "scratch": "folder on the primary that has the snapshot meanwhile",
        "verbose": "say what is done, also where nobody watches",
        "json": "print what was done as JSON",
    },
)
def backup(
    _: Context,
    local: bool = False,
    allow_older_revision: bool = False,
    timeout: int = 300,
    endpoint: str | None = None,
    scratch: str | None = None,
    verbose: bool = False,
    json: bool = False,
) -> None:
    """Take a snapshot of etcd, prove it, encrypt it, keep it.

    For cron: without a terminal it says nothing unless something is wrong. Exit status:
    0 the backup is here and at each copy_to; 1 none was taken, or a copy failed (the message
    says which); 2 wrong usage or inventory, something is missing, another run has not ended.
    """
    from smallkube.core import ui
    from smallkube.core.process import signals_as_errors
    from smallkube.etcd import host, run

    if timeout < 1:
        raise UsageError(f"--timeout {timeout}: must be at least 1")
    here = current()
    talkative = verbose or sys.stdout.isatty()
    inventory = here.inventory
    source = host.Source(endpoint or host.ENDPOINT, scratch or host.SCRATCH, timeout)
    wanted = run.request(here.workspace, inventory, datetime.now(UTC), source, older=allow_older_revision)
    with signals_as_errors(UNTOUCHED), steps(inventory.primary.name, talkative) as step:
        report = run.run(here.workspace, inventory, lambda: reach(here, inventory.primary, local), wanted, step)
    for fault in report.failed_notifications:
        ui.warn(fault)
    if json:
        ui.json_result(asdict(report))
    elif talkative:
        _show(report)
    if report.fault:
        raise SmallkubeError(report.fault)


@contextmanager
def reach(here: "Current", node: "Node", local: bool) -> "Iterator[Host]":
    """The machine ``node``, which is this one when it is the primary and ``local`` was given."""
    from smallkube.remote.local import LocalHost
    from smallkube.remote.ssh import SshHost

    if local and node.role == "primary":
        yield LocalHost(node)
        return
    with SshHost(here.workspace, node) as session:
        yield session


@contextmanager
def steps(name: str, talkative: bool) -> "Iterator[Callable[[str], None]]":
    """Show each step of one piece of work, if somebody is to see it."""
    from smallkube.core import ui

    if not talkative:
        yield lambda _: None
        return
    with ui.Progress([name]) as progress:
        yield lambda text: progress.step(name, text)


def _show(report: "Report") -> None:
    from smallkube.core import ui

    record = report.record
    ui.result(
        f"{record.name}: revision {record.revision}, {_count(record.keys)} keys, {_size(record.size)}"
        f" (stored: {_size(record.stored_size)})"
    )
    for copied in report.copies:
        if not copied.error:
            ui.result(f"{copied.destination}: {len(copied.sent)} sent, {len(copied.removed)} removed")
    if report.removed:
        ui.result(f"removed here: {', '.join(report.removed)}")


@task(name="list", help={"json": "print the list as JSON"})
def list_(_: Context, json: bool = False) -> None:
    """Show the backups that are here and why each is kept."""
    from smallkube.core import ui
    from smallkube.etcd import catalog, retention

    here = current()
    there = catalog.read(catalog.folder_of(here.workspace, here.inventory))
    staying = retention.kept(there.records, here.inventory.cluster.backup.keep)
    if json:
        rows = [{**asdict(record), "kept": staying.get(record.name, ())} for record in there.records]
        ui.json_result({"folder": str(there.folder), "backups": rows, "faults": there.faults})
        return
    if not (there.records or there.faults):
        ui.message(f"no backup in {there.folder}; inv etcd.backup takes one")
        return
    table = [_row(record, staying.get(record.name, ("next prune removes it",))) for record in there.records]
    table += [(name, "", "", "", "", "", fault) for name, fault in there.faults.items()]
    ui.table(("NAME", "TAKEN", "REVISION", "KEYS", "SIZE", "STORED", "KEPT"), table)


def _row(record: "Record", why: tuple[str, ...]) -> tuple[str, ...]:
    state = record.problem or ", ".join(why)
    sizes = (_size(record.size), _size(record.stored_size))
    return (record.name, record.created, str(record.revision), _count(record.keys), *sizes, state)


@task(
    positional=["name"],
    iterable=["name"],
    help={"name": "only this backup (repeatable; default: all)", "json": "print the findings as JSON"},
)
def verify(_: Context, name: list[str], json: bool = False) -> None:
    """Check every byte of the backups, down to etcd's hash.

    With keys/master_key each snapshot is decrypted (in memory) and compared with the hash
    that etcd appended; without it, the encrypted file with the hash that was recorded.
    """
    from smallkube.core import ui
    from smallkube.etcd import catalog, run
    from smallkube.etcd import verify as verifying
    from smallkube.secrets.keyring import read_master

    here = current()
    master = read_master(here.workspace)
    folder = catalog.folder_of(here.workspace, here.inventory)
    _demand_folder(folder.is_dir(), str(folder))
    with run.locked(folder) as there, steps("verify", sys.stderr.isatty()) as step:
        chosen = [there.find(each) for each in words(name)] or list(there.records)
        findings = verifying.verify(there, chosen, master, datetime.now(UTC), step)
    if not name:
        findings += [verifying.Finding(each, "failed", "record", fault) for each, fault in there.faults.items()]
    if json:
        ui.json_result([asdict(finding) for finding in findings])
    elif findings:
        rows = [(finding.name, finding.result, finding.proof, finding.detail) for finding in findings]
        ui.table(("NAME", "RESULT", "PROOF", "DETAIL"), rows)
    if not findings:
        raise UsageError("no backup is here", where=str(folder), hint="inv etcd.backup takes one")
    if bad := [finding.name for finding in findings if finding.result == "failed"]:
        raise SmallkubeError(f"not sound: {', '.join(bad)}", hint="inv etcd.backup takes a new one")


@task(
    help={
        "unsound": "also remove what is damaged, incomplete or without a record",
        "dry-run": "show what would be removed and remove nothing",
        "yes": "do not ask",
        "json": "print the names as JSON",
    },
)
def prune(_: Context, unsound: bool = False, dry_run: bool = False, yes: bool = False, json: bool = False) -> None:
    """Remove backups that the rule in inventory.yaml lets go.

    cluster.backup.keep: the last so many, and the newest of so many days, weeks and months.
    The newest sound one always stays.
    """
    from smallkube.core import ui
    from smallkube.etcd import catalog, retention, run

    here = current()
    folder = catalog.folder_of(here.workspace, here.inventory)
    _demand_folder(folder.is_dir(), str(folder))
    with run.locked(folder) as there:
        staying = retention.kept(there.records, here.inventory.cluster.backup.keep)
        gone = [record.name for record in there.records if record.name not in staying]
        if unsound:
            gone += [*there.faults, *(record.name for record in there.records if not record.sound)]
        if gone and not dry_run:
            ui.confirm(f"remove {len(gone)} of {len(there.records) + len(there.faults)} backups?", yes=yes)
            for name in gone:
                there.remove(name)
    if json:
        ui.json_result(gone)
    else:
        ui.result("\n".join(gone) if gone else "nothing to remove")


@task(
    help={
        "at": "when, every day, as HH:MM",
        "local": "for the primary itself: no SSH",
        "json": "print the three texts as JSON",
    },
)
def schedule(_: Context, at: str = "03:17", local: bool = False, json: bool = False) -> None:
    """Print lines for cron and systemd that take backups."""
    from pathlib import Path

    from smallkube.core import ui
    from smallkube.core.workspace import REPOSITORY
    from smallkube.etcd import schedule as timetable

    here = current()
    here.inventory  # noqa: B018 - a timetable for an inventory that is wrong would fail every night
    task_words = ("etcd.backup", "--local") if local else ("etcd.backup",)
    inv = Path(sys.executable).with_name("inv")
    job = timetable.Job(inv, REPOSITORY, here.workspace.root, timetable.parse_time(at), task_words)
    texts = {
        "crontab": timetable.crontab(job),
        "smallkube-etcd-backup.service": timetable.service(job),
        "smallkube-etcd-backup.timer": timetable.timer(job),
    }
    if json:
        ui.json_result(texts)
        return
    parts = [f"# {name}\n{text}" for name, text in texts.items()]
    ui.result("\n".join(parts).rstrip())


def _demand_folder(there: bool, folder: str) -> None:
    if not there:
        raise UsageError("no backup is here", where=folder, hint="inv etcd.backup takes one")


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / (1 << 10):.1f} KiB"


def _count(keys: int | None) -> str:
    return "?" if keys is None else str(keys)
