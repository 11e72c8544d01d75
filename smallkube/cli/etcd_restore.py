"""What backups of etcd are for: putting one back, rehearsing it, and how etcd is."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task
from smallkube.cli.etcd import reach, steps
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.etcd.record import Record
    from smallkube.etcd.restore import Outcome

__all__ = ["drill", "restore", "status"]

NAME = "the backup, as etcd.list shows it (default: the newest)"


@task(
    help={
        "name": NAME,
        "local": "this machine is the primary: no SSH to it",
        "timeout": "seconds that etcd, and then the API server, may take to come up",
        "without-encryption-key": "even if its Secrets can't be read afterwards",
        "other-cluster": "even if it is the backup of another cluster",
        "dry-run": "print the steps and touch nothing",
        "yes": "do not ask",
        "json": "print the outcome as JSON",
    },
)
def restore(
    _: Context,
    name: str | None = None,
    local: bool = False,
    timeout: int = 120,
    without_encryption_key: bool = False,
    other_cluster: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Put a backup back on the primary, in the safe order.

    The data of before is kept. If etcd or the API server does not come up, the primary goes
    back to it by itself, also when this machine is gone by then.
    """
    from smallkube.core import ui
    from smallkube.etcd import catalog, run
    from smallkube.etcd import restore as restoring
    from smallkube.secrets.keyring import require_master

    _demand_positive(timeout)
    here = current()
    inventory = here.inventory
    folder = catalog.folder_of(here.workspace, inventory)
    record = catalog.read(folder).find(name)
    restoring.check_cluster(record, inventory.cluster.name, other=other_cluster)
    master = require_master(here.workspace, "to open backups")
    if not without_encryption_key:
        check_encryption_key(here, record)
    plan = restoring.Plan(record, inventory.primary, inventory.nodes, timeout, without_encryption_key)
    if dry_run:
        ui.json_result(plan.steps) if json else ui.result("\n".join(plan.steps))
        return
    for text in plan.steps:
        ui.message(f"- {text}")
    ui.confirm(f"replace etcd's data on {inventory.primary.name}?", yes=yes)
    with run.locked(folder) as there, steps(inventory.primary.name, True) as step:
        outcome = restoring.execute(plan, there, master, lambda node: reach(here, node, local), step)
    _show_restored(record, outcome, json)


def check_encryption_key(here: "Current", record: "Record") -> None:
    """Raise UsageError when keys/ lacks a key without which the Secrets in ``record`` can't be read."""
    from smallkube.etcd import restore as restoring
    from smallkube.secrets import kinds, store

    if record.encryption_keys:
        plaintext = store.show(here.workspace, here.inventory, "EncryptionConfiguration.yaml")
        restoring.check_keys(record, kinds.encryption_keys(plaintext))


def _show_restored(record: "Record", outcome: "Outcome", json: bool) -> None:
    from smallkube.core import ui

    if json:
        ui.json_result({"name": record.name, **asdict(outcome)})
    else:
        ui.result(f"restored {record.name}")
        if outcome.old:
            ui.message(f"the data of before is in {outcome.old} on the primary; when all is well: rm -rf {outcome.old}")
    if not outcome.bumped:
        ui.warn("this etcdutl can't raise revisions: restart what watches the API server")
    if outcome.unrestarted:
        details = "; ".join(f"{node}: {reason}" for node, reason in outcome.unrestarted.items())
        hint = "systemctl restart kubelet kube-proxy coredns there"
        raise SmallkubeError(f"restored, but kubelet, kube-proxy and CoreDNS were not restarted: {details}", hint=hint)


@task(
    help={
        "name": NAME,
        "etcd-dir": "folder with etcd, etcdctl and etcdutl (default: from PATH)",
        "timeout": "seconds that each question to the throw-away etcd may take",
        "json": "print the checks as JSON",
    },
)
def drill(
    _: Context, name: str | None = None, etcd_dir: str | None = None, timeout: int = 60, json: bool = False
) -> None:
    """Rehearse a restore in a throw-away etcd on this machine.

    Needs keys/master_key and etcd's programs, but neither root nor the cluster.
    """
    from pathlib import Path

    from smallkube.core import ui
    from smallkube.core.process import signals_as_errors
    from smallkube.etcd import catalog, programs
    from smallkube.etcd import drill as drilling
    from smallkube.secrets.keyring import require_master

    _demand_positive(timeout)
    here = current()
    folder, began = catalog.folder_of(here.workspace, here.inventory), time.monotonic()
    there = catalog.read(folder)
    record = there.find(name)
    master = require_master(here.workspace, "to open backups")
    found = programs.find(Path(etcd_dir) if etcd_dir else None, record.etcd)
    base = here.workspace.state_dir
    talkative = sys.stderr.isatty()
    tidy = signals_as_errors("the rehearsal is cleaned up")
    with tidy, steps(record.name, talkative) as step:
        checks = drilling.rehearse(there, record, master, found, base, timeout, step)
    seconds = time.monotonic() - began
    if json:
        ui.json_result({"name": record.name, "seconds": seconds, "checks": [asdict(check) for check in checks]})
    else:
        title = f"{record.name} restored in {seconds:.1f} s"
        ui.table(("CHECK", "RESULT", "DETAIL"), [(one.check, one.result, one.detail) for one in checks], title=title)
    if bad := [one.check for one in checks if one.result == "failed"]:
        raise SmallkubeError(f"differs from what was recorded: {', '.join(bad)}", where=record.name)


@task(
    help={
        "local": "this machine is the primary: no SSH",
        "timeout": "seconds that each question to etcd may take",
        "json": "print it as JSON",
    }
)
def status(_: Context, local: bool = False, timeout: int = 10, json: bool = False) -> None:
    """Show etcd's health, size and alarms, and its last backup."""
    from smallkube.core import ui
    from smallkube.etcd import catalog
    from smallkube.etcd import status as asking

    _demand_positive(timeout)
    here = current()
    newest = catalog.read(catalog.folder_of(here.workspace, here.inventory)).newest
    with reach(here, here.inventory.primary, local) as primary:
        found = asking.read(primary, timeout)
    problems, now = list(asking.problems(found)), datetime.now(UTC)
    remarks = list(asking.remarks(newest, now))
    if json:
        backup = asdict(newest) if newest else None
        ui.json_result({**asdict(found), "last_backup": backup, "problems": problems, "remarks": remarks})
    else:
        rows = [
            ("version", found.version),
            ("revision", found.revision),
            ("database", f"{found.size >> 20} MiB, {found.in_use >> 20} in use, at most {found.quota >> 20}"),
            ("raft", f"term {found.term}, index {found.index}, {'leader' if found.leader else 'no leader'}"),
            ("alarms", ", ".join(found.alarms) or "none"),
            ("last backup", f"{newest.name}, {ui.age(now - newest.time)} old" if newest else "none here"),
        ]
        ui.table(("ETCD", here.inventory.primary.name), rows)
    for remark in remarks:
        ui.warn(remark)
    if problems:
        raise SmallkubeError("; ".join(problems), where="etcd")


def _demand_positive(timeout: int) -> None:
    if timeout < 1:
        raise UsageError(f"--timeout {timeout}: must be at least 1")
