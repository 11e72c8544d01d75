"""Operations on the whole cluster: whether it may be upgraded, the upgrade, and a new primary for a lost one."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import output
from smallkube.cli.cluster import IMAGE, failures, image_of, run_smoke
from smallkube.cli.context import CHANGE, JSON, Current, at_least, current, task, words
from smallkube.cli.etcd_restore import NAME, check_encryption_key, require_restarted
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.operations.rebuild import Plan


@task(help=JSON)
def upgrade_check(_: Context, json: bool = False) -> None:
    """Check whether an upgrade may begin.

    Compares cluster.kubernetes in inventory.yaml with the running versions: one
    minor version at a time, the primary first, kubelets and kube-proxies within
    upstream's version skew policy. Also checks nodes, etcd and backup. Exit
    status: 0 it may begin; 1 it must not.
    """
    from smallkube.operations import upgrade_guard

    here = current()
    inventory = here.inventory
    facts = upgrade_guard.read(here.cluster)
    findings = upgrade_guard.judge(inventory, facts, datetime.now(UTC))
    value = {
        "runs": facts.server(inventory.primary.name),
        "target": inventory.cluster.kubernetes,
        "findings": findings,
    }
    rows = [(each.check, each.result, each.detail) for each in findings]
    output.table(value, ("CHECK", "RESULT", "DETAIL"), rows, json=json)
    if failed := [each for each in findings if each.result == "failed"]:
        checks = ", ".join(dict.fromkeys(each.check for each in failed))
        raise SmallkubeError(f"an upgrade must not begin: {checks}", where=inventory.cluster.name)


@task(
    iterable=["skip"],
    help={
        **IMAGE,
        **CHANGE,
        "batch": "workers upgraded at the same time",
        "skip": "skip these checks or groups of the smoke test (repeatable, or separated by commas)",
        "settle": "seconds during which a failed smoke test is repeated after a stage",
    },
)
def upgrade(
    _: Context,
    skip: list[str],
    batch: int = 1,
    image: str | None = None,
    pull_policy: str | None = None,
    settle: int = 120,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Upgrade Kubernetes to the inventory's version.

    Runs the checks of cluster.upgrade-check; backs up etcd; deploys to the
    primary, then to drained workers in batches; runs the smoke test after each
    stage. Stops at the first failed smoke test and says how to roll back. After
    an interruption the same command resumes.
    """
    from smallkube.operations import upgrade as upgrading
    from smallkube.operations import upgrade_guard as guard
    from smallkube.operations.verified_backup import back_up
    from smallkube.secrets.keyring import require_master
    from smallkube.smoke import report
    from smallkube.smoke.context import Options

    at_least(1, batch=batch)
    at_least(0, settle=settle)
    wanted = report.select((), words(skip))
    here = current()
    workspace, inventory = here.workspace, here.inventory
    options = Options(*image_of(inventory.cluster.smoke, image, pull_policy))
    plan = upgrading.make(inventory, guard.read(here.cluster), batch)
    if dry_run:
        output.show_steps(plan.steps, json=json)
        return
    master = require_master(workspace, "to verify the backup")
    question = f"upgrade {inventory.cluster.name} from {plan.runs} to {plan.target}?"
    output.confirm_steps(plan.steps, question, yes=yes)

    def smoke() -> list[str]:
        return [f"{one.check} ({one.message})" for one in failures(run_smoke(here, options, wanted))]

    def backup() -> str:
        return back_up(here.cluster, master)

    with output.operation(here, "upgrade") as running:
        run = upgrading.Upgrade(here.cluster, running.progress, backup, smoke, settle)
        outcome = run.execute(plan, running.step)
    names = ", ".join(node.name for node in inventory.nodes)
    text = f"all of {names} have Kubernetes {plan.target} ({outcome.version}), and work"
    output.show(outcome, text, json=json)


@task(
    help={
        **CHANGE,
        "backup": NAME["name"],
        "host-key": "fingerprint SHA256:… as shown on the new machine's own console",
        "timeout": "seconds for all nodes to be Ready",
        "yes": "do not ask for confirmation; a new host key then needs --host-key",
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
    """Rebuild a lost primary on a new machine.

    Install NixOS on it, authorize your SSH key, put its address into
    inventory.yaml, and run this. Workers and their pods keep running: etcd is
    restored from the backup before the API server first answers. After an
    interruption the same command resumes.
    """
    from smallkube.operations import rebuild as rebuilding
    from smallkube.secrets.keyring import require_master

    at_least(1, timeout=timeout)
    here = current()
    here.inventory  # noqa: B018 - what is wrong with it is said first
    master = require_master(here.workspace, "to open backups and to re-encrypt")
    plan = _plan(here, backup, timeout)
    check_encryption_key(here, plan.record)
    if host_key:
        rebuilding.check_fingerprint(plan.scanned, host_key)
    if dry_run:
        output.show_steps(plan.steps, json=json)
        return
    for text in plan.steps:
        ui.message(f"- {text}")
    if plan.new_key and not host_key and yes:
        details = plan.scanned.key.fingerprint if plan.scanned.key else ""
        hint = f"compare it on the machine's console, then give --host-key {details}"
        raise UsageError(f"its host key is not the one in keys/hosts: {details}", where=plan.primary.name, hint=hint)
    ui.confirm(f"make this machine the primary, from {plan.record.name}?", yes=yes)
    with output.operation(here, "primary") as running:
        rebuild = rebuilding.Rebuild(here.cluster, master, running.progress)
        outcome = rebuild.execute(plan, running.step)
    text = f"{plan.primary.name} is the primary again, with the data of {outcome.backup}; all nodes are Ready"
    output.show(outcome, text, json=json)
    ui.message("changes after that backup are lost; next: inv cluster.smoke, inv etcd.backup, commit keys/")
    ui.message("inv deploy brings the re-encrypted files to the other nodes")
    require_restarted("rebuilt, but not restarted", outcome.unrestarted)


def _plan(here: Current, backup: str | None, seconds: int) -> "Plan":
    """Raises UsageError without a backup or an answer of the machine: nothing has been changed."""
    from smallkube.etcd import catalog, restore
    from smallkube.operations.rebuild import Plan
    from smallkube.secrets import scan

    inventory = here.inventory
    record = catalog.read(catalog.folder_of(here.cluster)).find(backup)
    restore.check_cluster(record, inventory.cluster.name, other=False)
    (scanned,) = scan.scan(here.workspace, [inventory.primary], 10, lambda _node, _outcome: None)
    if scanned.state is scan.State.FAILED:
        raise SmallkubeError(f"its host key can't be read: {scanned.reason}", where=inventory.primary.name)
    return Plan(record, inventory.primary, inventory.workers, scanned, seconds)
