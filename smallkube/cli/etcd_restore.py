"""Restoring a backup of etcd on the primary, and the drill of that on this machine."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from smallkube.cli import output
from smallkube.cli.context import Current, DryRun, Json, Seconds, Yes, task
from smallkube.cli.etcd import reach
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError

NAME = {"name": "name of the backup, as etcd.list shows it (default: the newest)"}


@task
def restore(
    here: Current,
    name: Annotated[str | None, "name of the backup, as etcd.list shows it (default: the newest)"] = None,
    local: Annotated[bool, "this machine is the primary: no SSH to it"] = False,
    timeout: Annotated[Seconds, "seconds for etcd, and then for the API server, to start"] = 120,
    without_encryption_key: Annotated[bool, "even if Secrets can't be decrypted afterwards"] = False,
    other_cluster: Annotated[bool, "even if the backup is of another cluster"] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
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

    inventory, folder = here.inventory, catalog.folder_of(here.cluster)
    record = catalog.read(folder).find(name)
    master = require_master(here.workspace, "to open backups")
    restoring.check(here.cluster, record, other_cluster=other_cluster, any_key=without_encryption_key)
    plan = restoring.Plan(record, inventory.primary, inventory.nodes, timeout, without_encryption_key)
    if dry_run:
        output.show_steps(plan.steps, json=json)
        return
    output.confirm_steps(plan.steps, f"replace etcd's data on {inventory.primary.name}?", yes=yes)
    with locked(folder) as there, output.steps(inventory.primary.name, shown=True) as step:
        outcome = restoring.execute(plan, there, master, lambda node: reach(here, node, local), step)
    output.show({"name": record.name, **asdict(outcome)}, f"restored {record.name}", json=json)
    if (previous := outcome.previous) and not json:
        ui.message(f"the previous data is in {previous} on the primary; when all is Ready: rm -rf {previous}")
    if not outcome.bumped:
        ui.warn("this etcdutl can't raise revisions: restart clients that watch the API server")
    require_restarted("restored, but kubelet, kube-proxy and CoreDNS were not restarted", outcome.unrestarted)


def require_restarted(problem: str, unrestarted: Mapping[str, str]) -> None:
    """Raise SmallkubeError with the nodes where services that watch the API server still run on previous data."""
    if unrestarted:
        details = "; ".join(f"{node}: {reason}" for node, reason in unrestarted.items())
        raise SmallkubeError(f"{problem}: {details}", hint="systemctl restart kubelet kube-proxy coredns there")


@task
def drill(
    here: Current,
    name: Annotated[str | None, "name of the backup, as etcd.list shows it (default: the newest)"] = None,
    etcd_dir: Annotated[str | None, "folder with etcd, etcdctl and etcdutl (default: from PATH)"] = None,
    timeout: Annotated[Seconds, "seconds for each request to the ephemeral etcd"] = 60,
    json: Json = False,
) -> None:
    """Restore a backup into an ephemeral etcd here.

    Verifies that its keys are there. Needs keys/master_key and etcd's programs on
    this machine, but neither root nor the cluster.
    """
    from smallkube.core.checks import failed
    from smallkube.core.process import signals_as_errors
    from smallkube.etcd import catalog, ephemeral
    from smallkube.etcd import drill as drilling
    from smallkube.secrets.age import require_master

    began = time.monotonic()
    there = catalog.read(catalog.folder_of(here.cluster))
    record = there.find(name)
    master = require_master(here.workspace, "to open backups")
    programs = ephemeral.find_programs(Path(etcd_dir) if etcd_dir else None, record.minor)
    tidy = signals_as_errors("the drill is cleaned up")
    with tidy, output.steps(record.name, shown=sys.stderr.isatty()) as step:
        checks = drilling.drill(there, record, master, programs, here.workspace.state_dir, timeout, step)
    seconds = time.monotonic() - began
    if json:
        ui.json_result({"name": record.name, "seconds": seconds, "checks": checks})
    else:
        ui.result(f"{record.name} restored in {seconds:.1f} s")
        output.show_checks(checks, json=False, subject="BACKUP")
    if bad := failed(checks):
        names = ", ".join(check.check for check in bad)
        raise SmallkubeError(f"differs from what was recorded: {names}", where=record.name)
