"""The cluster as a whole: does it work?"""

import re
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.core.errors import SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.inventory.models import Smoke

__all__ = ["smoke"]

IMAGE_HELP = "a busybox for the smoke test's pods (default: cluster.smoke.image)"
POLICY_HELP = "Always, IfNotPresent or Never (default: cluster.smoke.pull_policy)"


def image_of(smoke: "Smoke", image: str | None, pull_policy: str | None) -> tuple[str, str]:
    """Image and pull policy by the flags, else by the inventory.

    Raises UsageError when a flag has a value that the inventory could not have.
    """
    from smallkube.inventory.models import PullPolicy

    if image is not None and not re.fullmatch(r"\S+", image):
        raise UsageError(f"--image {image!r}", hint="expected the name of an image, such as busybox:1.37")
    if pull_policy is not None and pull_policy not in get_args(PullPolicy):
        raise UsageError(f"--pull-policy {pull_policy}", hint=f"one of {', '.join(get_args(PullPolicy))}")
    return image or smoke.image, pull_policy or smoke.pull_policy


@task(
    iterable=["only", "skip"],
    help={
        "only": "only these checks or groups (repeatable, or separated by commas)",
        "skip": "not these checks or groups",
        "image": IMAGE_HELP,
        "pull-policy": POLICY_HELP,
        "egress": "HOST:PORT outside that pods should reach",
        "timeout": "seconds for everything, cleaning up excepted",
        "rollout": "seconds that the pods may take to start",
        "keep": "leave the pods there to look at; the next run removes them",
        "junit": "also write the report to this file, as JUnit XML",
        "json": "print the report as JSON",
    },
)
def smoke(
    _: Context,
    only: list[str],
    skip: list[str],
    image: str | None = None,
    pull_policy: str | None = None,
    egress: str = "",
    timeout: int = 300,
    rollout: int = 90,
    keep: bool = False,
    junit: str | None = None,
    json: bool = False,
) -> None:
    """Prove that the cluster works, and clean up after it.

    Makes a namespace with a pod on every node and removes it again, whatever happens. Exit
    status: 0 every check is ok or skipped; 1 one failed or could not be made. One run at a
    time: a run removes what earlier ones left.
    """
    from pathlib import Path

    from smallkube.core import ui
    from smallkube.core.workspace import lock, write_file
    from smallkube.remote.ssh import connector
    from smallkube.smoke import report, runner
    from smallkube.smoke.context import Options

    if egress and not egress.rpartition(":")[2].isdecimal():
        raise UsageError(f"--egress {egress}", hint="expected HOST:PORT")
    if timeout < 1 or rollout < 1:
        raise UsageError("--timeout and --rollout must be at least 1")
    if junit and Path(junit).is_dir():
        raise UsageError(f"--junit {junit}: is a folder", hint="name a file")
    wanted = report.select(words(only), words(skip))
    here = current()
    inventory = here.inventory
    options = Options(*image_of(inventory.cluster.smoke, image, pull_policy), egress, timeout, rollout, keep)
    pinned = here.workspace.keys_dir / "apiserver.crt"
    certificate = pinned.read_bytes() if pinned.is_file() else None
    _end_as_by_interruption()
    busy = lock(here.workspace.state_dir / "smoke.lock", "the smoke test")
    with busy, ui.Progress(["smoke"] if sys.stderr.isatty() else []) as progress:
        results = runner.run(
            inventory,
            connector(here.workspace),
            certificate,
            options,
            wanted,
            lambda name: progress.step("smoke", name) if sys.stderr.isatty() else None,
            ui.message,
        )
    if json:
        ui.json_result([asdict(result) for result in results])
    else:
        rows = [(one.check, one.outcome, f"{one.seconds:.1f}", one.message) for one in results]
        ui.table(("CHECK", "RESULT", "SECONDS", "DETAIL"), rows)
    if junit:
        write_file(Path(junit), report.junit(results, inventory.cluster.name))
    if bad := [one.check for one in results if one.outcome in ("failed", "not reached")]:
        raise SmallkubeError(f"not all is well: {', '.join(bad)}", where=inventory.cluster.name)


def _end_as_by_interruption() -> None:
    """Who asks us to end, or hangs up, must not stop us from cleaning up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
