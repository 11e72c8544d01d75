"""Operations on the whole cluster: whether it may be upgraded, the upgrade, and a new primary for a lost one."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from smallkube.cli import output
from smallkube.cli.cluster import Image, PullPolicyFlag, image_of, run_smoke
from smallkube.cli.context import CHANGE, Current, Limits, Seconds, task, words
from smallkube.cli.etcd import BackupName, require_restarted
from smallkube.core import ui
from smallkube.core.errors import UsageError

NoRollback = Annotated[bool, "where etcd gets a new minor, the primary does not roll back automatically"]


@task("json", "wide")
def upgrade_check(here: Current, no_rollback: NoRollback = False) -> None:
    """Check whether an upgrade may begin.

    Compares cluster.kubernetes in inventory.yaml with the running versions, for
    all minor versions on the way: known revisions, the primary first, kubelets
    and kube-proxies within upstream's version skew policy, etcd's versions. Also
    checks nodes, pods that cannot be evicted, etcd and backup. Exit status: 0 it
    may begin; 1 it must not.
    """
    from smallkube.operations import upgrade_check as checking
    from smallkube.operations.upgrade_path import evaluated

    inventory = here.inventory
    facts = checking.read(here.cluster, here.connect)
    checks = checking.check(inventory, facts, datetime.now(UTC), evaluated(here.cluster), reversible=not no_rollback)
    about = {"runs": checking.server(inventory, facts), "target": inventory.cluster.kubernetes}
    output.show_checks(here, checks, "an upgrade must not begin", facts=about, where=inventory.cluster.name)


@task(*CHANGE)
def upgrade(
    here: Current,
    skip: Annotated[list[str], "skip these checks or groups of the smoke test (repeatable, or separated by commas)"],
    batch: Annotated[int, Limits(1), "workers upgraded at the same time"] = 1,
    image: Image = None,
    pull_policy: PullPolicyFlag = None,
    settle: Annotated[int, Limits(0), "seconds during which a failed smoke test is repeated after a stage"] = 120,
    no_rollback: NoRollback = False,
) -> None:
    """Upgrade Kubernetes to the inventory's version.

    For each minor version: runs the checks of cluster.upgrade-check; backs up
    etcd; deploys to the primary, then to drained workers in batches; runs the
    smoke test after each stage. Stops at the first failed one and says how to
    roll back. After an interruption the same command resumes.
    """
    from smallkube.operations import upgrade as upgrading
    from smallkube.operations import upgrade_check as checking
    from smallkube.operations.upgrade_path import evaluated
    from smallkube.secrets.age import require_master
    from smallkube.smoke import report, table
    from smallkube.smoke.context import Options

    wanted, inventory = table.select((), words(skip)), here.inventory
    options = Options(*image_of(inventory.cluster.smoke, image, pull_policy))
    facts = partial(checking.read, here.cluster, here.connect)
    plan = upgrading.make(here.cluster, facts(), batch, evaluated(here.cluster), reversible=not no_rollback)
    for line in plan.about:
        ui.message(line)
    master = None if here.dry_run else require_master(here.workspace, "to verify the backup")

    def smoke() -> list[str]:
        return report.faults(run_smoke(here, options, wanted), detailed=True)

    runner = output.Runner(here, "upgrade", rotation=False)
    run = upgrading.Upgrade(here.cluster, master, here.connect, runner.deploy, plan, smoke, facts, settle, runner.step)
    question = f"upgrade {inventory.cluster.name} from {plan.runs} to {inventory.cluster.kubernetes}?"
    if runner.run(run.operation(), question):
        result = {"version": run.version, "backup": run.backup}
        runner.show(result, f"all nodes have Kubernetes {inventory.cluster.kubernetes} ({run.version}), and work")


@task(*CHANGE)
def rebuild_primary(
    here: Current,
    backup: BackupName = None,
    host_key: Annotated[
        str | None, "fingerprint SHA256:… on the new machine's own console (default: ask; --yes needs it)"
    ] = None,
    timeout: Annotated[Seconds, "seconds for all nodes to be Ready"] = 300,
) -> None:
    """Rebuild a lost primary on a new machine.

    Install NixOS on it, authorize your SSH key, put its address into
    inventory.yaml, and run this. Workers and their pods keep running: etcd is
    restored from the backup before the API server first answers. After an
    interruption the same command resumes.
    """
    from smallkube.operations import rebuild as rebuilding
    from smallkube.secrets.age import require_master

    here.inventory  # noqa: B018 - its errors come first
    master = require_master(here.workspace, "to open backups and to re-encrypt")
    runner = output.Runner(here, "rebuild", rotation=False)
    record, scanned = rebuilding.choose(here.cluster, backup)
    run = rebuilding.Rebuild(here.cluster, master, here.connect, runner.deploy, record, scanned, timeout)
    primary, key = here.inventory.primary.name, run.new_key
    if host_key:
        run.check_fingerprint(host_key)
    elif key and here.yes and not here.dry_run:
        hint = f"compare it on the machine's console, then give --host-key {key}"
        raise UsageError(f"its host key is not the one in keys/hosts: {key}", where=primary, hint=hint)
    question = f"make this machine the primary, from {record.name}?"
    if not runner.run(run.operation(), question):
        return
    text = f"{primary} is the primary again, with the data of {run.backup}; all nodes are Ready"
    runner.show({"backup": run.backup, "unrestarted": run.unrestarted}, text)
    ui.message("changes after that backup are lost; next: inv cluster.smoke, inv etcd.backup, commit keys/")
    ui.message("inv deploy brings the re-encrypted files to the other nodes")
    require_restarted("rebuilt, but not restarted", run.unrestarted)
