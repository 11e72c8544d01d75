"""Kubernetes, one minor version further."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.cli.cluster import IMAGE_HELP, POLICY_HELP, image_of
from smallkube.core.errors import UsageError

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.smoke.context import Options

__all__ = ["upgrade"]


@task(
    iterable=["skip"],
    help={
        "batch": "how many workers at a time",
        "image": IMAGE_HELP,
        "pull-policy": POLICY_HELP,
        "skip": "not these checks or groups of the smoke test (repeatable, or separated by commas)",
        "settle": "seconds in which the smoke test may be made again after a stage",
        "dry-run": "print the steps and touch nothing",
        "yes": "do not ask",
        "json": "print the outcome as JSON",
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
    """Bring the cluster to the inventory's Kubernetes.

    Asks cluster.upgrade-check; backs up etcd; deploys the primary, then the workers in batches,
    drained; a smoke test after each stage, and the first that is not well ends it, with the way
    back. The same command goes on from there.
    """
    from smallkube.cli.encryption import back_up
    from smallkube.core import ui
    from smallkube.operations import upgrade as upgrading
    from smallkube.operations import upgrade_guard as guard
    from smallkube.secrets.keyring import require_master
    from smallkube.smoke import report
    from smallkube.smoke.context import Options

    if batch < 1 or settle < 0:
        raise UsageError(f"--batch {batch} --settle {settle}: must be at least 1 and 0")
    wanted = report.select((), words(skip))
    here = current()
    inventory = here.inventory
    options = Options(*image_of(inventory.cluster.smoke, image, pull_policy))
    plan = upgrading.make(inventory, guard.read(here.workspace, inventory), batch)
    if dry_run:
        ui.json_result(plan.steps) if json else ui.result("\n".join(plan.steps))
        return
    master = require_master(here.workspace, "to verify the backup")
    for text in plan.steps:
        ui.message(f"- {text}")
    ui.confirm(f"bring {inventory.cluster.name} from {plan.runs} to {plan.target}?", yes=yes)
    names = [node.name for node in inventory.nodes]
    smoke = _smoke(here, options, wanted)
    with ui.Progress([*names, "upgrade"]) as progress:
        run = upgrading.Upgrade(here.workspace, inventory, progress, lambda: back_up(here, master), smoke, settle)
        outcome = run.execute(plan, lambda text: progress.step("upgrade", text))
        progress.done("upgrade", "done")
    if json:
        ui.json_result(asdict(outcome))
    else:
        ui.result(f"all of {', '.join(names)} have Kubernetes {plan.target} ({outcome.version}), and work")


def _smoke(here: "Current", options: "Options", wanted: tuple[str, ...]) -> Callable[[], list[str]]:
    """Makes the smoke test; returns what was not well, each with its reason."""
    from smallkube.core import ui
    from smallkube.core.workspace import lock
    from smallkube.remote.ssh import connector
    from smallkube.smoke import runner

    pinned = here.workspace.keys_dir / "apiserver.crt"
    certificate = pinned.read_bytes() if pinned.is_file() else None

    def run() -> list[str]:
        with lock(here.workspace.state_dir / "smoke.lock", "the smoke test"):
            connect = connector(here.workspace)
            results = runner.run(here.inventory, connect, certificate, options, wanted, lambda _: None, ui.message)
        return [f"{one.check} ({one.message})" for one in results if one.outcome in ("failed", "not reached")]

    return run
