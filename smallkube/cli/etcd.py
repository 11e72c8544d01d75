"""Backups of etcd: take, list, verify, prune, schedule, restore and drill them; etcd's state."""

import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, Seconds, task, words
from smallkube.core import ui
from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError, listed
from smallkube.core.workspace import REPOSITORY

if TYPE_CHECKING:
    from smallkube.etcd.backup import Report

BackupName = Annotated[str | None, "name of the backup, as etcd.list shows it (default: the newest signed)"]


@task("local", "json")
def backup(
    here: Current,
    allow_older_revision: Annotated[bool, "also when etcd's revision is lower than in the last backup"] = False,
    timeout: Annotated[Seconds, "seconds for each request to etcd"] = 300,
    endpoint: Annotated[str | None, "endpoint of etcd on the primary (default: its unix socket)"] = None,
    scratch: Annotated[
        str | None, "folder on the primary for the snapshot (default: /var/lib/smallkube/snapshots)"
    ] = None,
) -> None:
    """Take a verified, encrypted snapshot of etcd.

    Applies the retention policy and makes the off-site copies. For cron: without
    a terminal and --verbose it prints nothing unless something is wrong. Exit
    status: 0 the backup is here and at each copy_to; 1 no backup was taken, or a
    copy failed (the message says which); 2 wrong usage or inventory, missing
    prerequisite, or another run is active.
    """
    from smallkube.core.process import signals_as_errors
    from smallkube.etcd import backup as backing

    shown, primary = here.verbose or sys.stdout.isatty(), here.inventory.primary
    source = (endpoint or backing.Options.endpoint, scratch or backing.Options.scratch)
    options = backing.Options(*source, timeout, allow_older_revision)
    with signals_as_errors("existing backups are unchanged"), output.steps(primary.name, shown=shown) as step:
        report = backing.run(here.cluster, here.connect(primary), options, step)
    for fault in report.failed_notifications:
        ui.warn(fault)
    if here.json:
        ui.json_result(report)
    elif shown:
        _show(report)
    if report.fault:
        raise SmallkubeError(report.fault)


def _show(report: "Report") -> None:
    record = report.record
    size = f"{ui.size(record.size)} (stored: {ui.size(record.stored_size)})"
    ui.result(f"{record.name}: revision {record.revision}, {_count(record.keys)} keys, {size}")
    for copied in report.copies:
        if not copied.error:
            others = f"; not of this machine: {listed(copied.others)}" if copied.others else ""
            ui.result(f"{copied.destination}: {len(copied.sent)} sent, {len(copied.removed)} removed{others}")
    if report.removed:
        ui.result(f"removed here: {', '.join(report.removed)}")


@task("json", "wide")
def list_(here: Current) -> None:
    """List the backups and why each is kept."""
    from smallkube.etcd import catalog, retention

    there = catalog.of(here.cluster)
    kept = retention.kept(there.records, here.inventory.cluster.backup.keep)
    if not (there.records or there.faults or here.json):
        ui.message(f"no backup in {there.folder}; inv etcd.backup takes one")
        return
    rows = [{**asdict(record), "kept": kept.get(record.name, ())} for record in there.records]
    table: list[tuple[object, ...]] = []
    for record in there.records:
        state = record.problem or ", ".join(kept.get(record.name, ("next prune removes it",)))
        state += "" if record.signed or record.problem else f" ({record.state})"
        sizes = (ui.size(record.size), ui.size(record.stored_size))
        table.append((record.name, record.created, record.revision, _count(record.keys), *sizes, state))
    table += [(name, "", "", "", "", "", fault) for name, fault in there.faults.items()]
    columns = ("NAME", "TAKEN", "REVISION", "KEYS", "SIZE", "STORED", "KEPT")
    value = {"folder": there.folder, "backups": rows, "faults": there.faults}
    output.table(here, value, columns, table, spare=("TAKEN", "REVISION", "SIZE"))


@task("json", "wide")
def verify(here: Current, name: Annotated[list[str], "only these backups (repeatable; default: all)"]) -> None:
    """Verify the integrity of the backups.

    With keys/master_key each snapshot is decrypted (in memory) and compared with
    the hash that etcd appended; without it, the encrypted file with the hash that
    was recorded.
    """
    from smallkube.etcd import verify as verifying
    from smallkube.etcd.backup import locked
    from smallkube.secrets.age import read_master

    master = read_master(here.workspace)
    with locked(here.cluster) as there, output.steps("verify", shown=sys.stderr.isatty()) as step:
        checks = verifying.verify(there, words(name), master, step)
    if not checks:
        there.find(None)  # raises UsageError
    output.show_checks(here, checks, "not sound", subject="BACKUP", hint="inv etcd.backup takes a new one")


@task(*CHANGE)
def prune(
    here: Current,
    unsound: Annotated[bool, "also remove damaged and incomplete backups, and those without a record"] = False,
) -> None:
    """Remove backups by the retention policy.

    cluster.backup.keep in inventory.yaml: the last N backups, and the newest
    backup of each of the last N days, weeks and months. The newest verified
    backup is never removed.
    """
    from smallkube.etcd import catalog
    from smallkube.etcd.backup import locked
    from smallkube.etcd.retention import removable

    output.announce(here, ())
    with nullcontext(catalog.of(here.cluster)) if here.dry_run else locked(here.cluster) as there:
        gone = list(removable(there.records, here.inventory.cluster.backup.keep))
        if unsound:
            gone += there.unsound
        if gone and not here.dry_run:
            ui.confirm(f"remove {len(gone)} of {len(there.records) + len(there.faults)} backups?", yes=here.yes)
            for name in gone:
                there.remove(name)
    verb = "would remove" if here.dry_run else "removed"
    output.show(here, gone, "\n".join(f"{verb} {name}" for name in gone) or "nothing to remove")
    if others := listed(name for name in there.faults if unsound and name not in gone):
        ui.warn(f"not a backup of etcd, stays in {there.folder}: {others}")


@task("local", "json")
def schedule(here: Current, at: Annotated[str, "time of day, as HH:MM"] = "03:17") -> None:
    """Print cron and systemd entries for backups."""
    from smallkube.etcd import schedule as timetable

    here.inventory  # noqa: B018 - with a wrong inventory the backup would fail every night
    inv = Path(sys.executable).with_name("inv")
    argv = (str(inv), "-r", str(REPOSITORY), "etcd.backup", *(("--local",) if here.local else ()))
    texts = timetable.entries(argv, here.workspace.root, at)
    output.show(here, texts, "\n".join(f"# {name}\n{text}" for name, text in texts.items()).rstrip())


@task("local", "json", "wide")
def status(here: Current, timeout: Annotated[Seconds, "seconds for each request to etcd"] = 10) -> None:
    """Show etcd's health, size, alarms, last backup."""
    from smallkube.etcd import catalog
    from smallkube.etcd import status as asking

    newest = catalog.of(here.cluster).newest
    with here.connect(here.inventory.primary) as primary:
        found = asking.read(primary, timeout)
    problems, now = list(asking.problems(found)), datetime.now(UTC)
    remarks = list(asking.remarks(newest, now))
    rows = [
        ("version", found.version),
        ("revision", found.revision),
        ("database", f"{found.size >> 20} MiB, {found.in_use >> 20} in use, at most {found.quota >> 20}"),
        ("raft", f"term {found.term}, index {found.index}, {'leader' if found.leader else 'no leader'}"),
        ("alarms", ", ".join(found.alarms) or "none"),
        ("last backup", f"{newest.name}, {ui.age(now - newest.time)} old" if newest else "none found"),
    ]
    value = {**asdict(found), "last_backup": newest, "problems": problems, "remarks": remarks}
    output.table(here, value, ("ETCD", here.inventory.primary.name), rows)
    for remark in remarks:
        ui.warn(remark)
    if problems:
        raise SmallkubeError("; ".join(problems), where="etcd")


@task("local", *CHANGE)
def restore(
    here: Current,
    name: BackupName = None,
    timeout: Annotated[Seconds, "seconds for etcd, and then for the API server, to start"] = 120,
    without_encryption_key: Annotated[bool, "even if Secrets can't be decrypted afterwards"] = False,
    other_cluster: Annotated[bool, "even if the backup is of another cluster"] = False,
) -> None:
    """Restore etcd from a backup.

    Keeps the previous data on the primary. If etcd or the API server does not
    start, the primary rolls back to the previous data, also when this machine is
    disconnected.
    """
    from smallkube.etcd import catalog
    from smallkube.etcd import restore as restoring
    from smallkube.etcd.backup import locked
    from smallkube.secrets.age import require_master

    inventory, record = here.inventory, catalog.of(here.cluster).find(name)
    master = require_master(here.workspace, "to open backups")
    restoring.check(here.cluster, record, other_cluster=other_cluster, any_key=without_encryption_key)
    plan = restoring.Plan(record, inventory.primary, inventory.nodes, timeout, without_encryption_key)
    question = f"replace etcd's data on {inventory.primary.name}?"
    remote = [node for node in plan.nodes if not (here.local and node == plan.primary)]
    if not output.begin(here, plan.steps, question, remote):
        return
    with locked(here.cluster) as there, output.steps(inventory.primary.name, shown=True) as step:
        outcome = restoring.execute(plan, there, master, here.connect, step)
    output.show(here, {"name": record.name, **asdict(outcome)}, f"restored {record.name}")
    if (previous := outcome.previous) and not here.json:
        ui.message(f"the previous data is in {previous} on the primary; when all is Ready: rm -rf {previous}")
    if not outcome.bumped:
        ui.warn("this etcdutl can't raise revisions: restart clients that watch the API server")
    require_restarted("restored, but kubelet, kube-proxy and CoreDNS were not restarted", outcome.unrestarted)


def require_restarted(problem: str, unrestarted: Mapping[str, str]) -> None:
    """Raise SmallkubeError with the nodes where services that watch the API server still run on previous data."""
    if unrestarted:
        details = "; ".join(f"{node}: {reason}" for node, reason in unrestarted.items())
        raise SmallkubeError(f"{problem}: {details}", hint="systemctl restart kubelet kube-proxy coredns there")


@task("json", "wide")
def drill(
    here: Current,
    name: BackupName = None,
    etcd_dir: Annotated[str | None, "folder with etcd, etcdctl and etcdutl (default: from PATH)"] = None,
    timeout: Annotated[Seconds, "seconds for each request to the ephemeral etcd"] = 60,
) -> None:
    """Restore a backup into an ephemeral etcd here.

    Verifies that its keys are there. Needs keys/master_key and etcd's programs on
    this machine, but neither root nor the cluster.
    """
    from smallkube.core.process import signals_as_errors
    from smallkube.etcd import catalog, drills, ephemeral
    from smallkube.etcd import drill as drilling
    from smallkube.etcd.record import timestamp
    from smallkube.secrets.age import require_master

    began = time.monotonic()
    there = catalog.of(here.cluster)
    record = there.find(name)
    master = require_master(here.workspace, "to open backups")
    programs = ephemeral.find_programs(Path(etcd_dir) if etcd_dir else None, record.minor)
    tidy = signals_as_errors("the drill is cleaned up")

    def note(fault: str) -> None:
        result = drills.Drill(timestamp(datetime.now(UTC)), round(time.monotonic() - began, 1), fault)
        drills.note(here.workspace, there, record.name, result)

    with tidy, output.steps(record.name, shown=sys.stderr.isatty()) as step:
        try:
            checks = drilling.drill(there, record, master, programs, here.workspace.state_dir, timeout, step)
        except SmallkubeError as error:
            note(error.message)
            raise
    seconds, problem = time.monotonic() - began, "differs from what was recorded"
    note(listed(f"{check.check}: {check.detail}" for check in failed(checks)))
    if not here.json:
        ui.result(f"{record.name} restored in {seconds:.1f} s")
    facts = {"name": record.name, "seconds": seconds}
    output.show_checks(here, checks, problem, subject="BACKUP", facts=facts, where=record.name)


def _count(keys: int | None) -> str:
    return "?" if keys is None else str(keys)
