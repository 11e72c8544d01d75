"""Installing NixOS on new machines."""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, Limits, changing, task
from smallkube.core import ui
from smallkube.core.files import lock
from smallkube.core.workspace import expanded

if TYPE_CHECKING:
    from smallkube.operations.install import Installation


@task(*CHANGE)
def install(
    here: Current,
    name: Annotated[str, "nodeN, which is in inventory.yaml"],
    extra_files: Annotated[str, "folder that keys.new-host wrote: it is removed in the end"],
    target: Annotated[str | None, "[USER@]HOST of the installer or rescue system (default: root@ its ssh.host)"] = None,
    port: Annotated[int, Limits(1, 65535), "port of its SSH server (default: 22)"] = 22,
    build_on: Annotated[str, "auto | local | remote, as in nixos-anywhere (default: auto)"] = "auto",
) -> None:
    """Install NixOS on a machine: erases its disks.

    By nixos-anywhere, which needs Nix here. The machine gets the host key that
    keys.new-host made, so its secrets decrypt at the first boot. Checks the key,
    the configuration and the machine first, shows which disks are erased, and
    asks for the name of the node. The key is removed from this machine, also
    after a failure or Ctrl-C.
    """
    from smallkube.operations import install as installing

    node = installing.target(here.inventory.node(name), target, port)
    output.announce(here, [*(each for each in (here.inventory.primary,) if each.name != name), node])
    with changing(here):
        pass  # completes what a killed process had begun
    folder = expanded(extra_files).absolute()
    plan = installing.prepare(here.cluster, node, folder, build_on, may_lock=not here.dry_run)
    if unknown := installing.member_state(here.cluster, node, here.connect):
        ui.warn(f"not known whether {name} is a member of the cluster: {unknown}")
    with _place(here, name) as tree, installing.written(plan, tree):
        ui.message("evaluating the configuration, which takes a while")
        plan = replace(plan, disks=installing.examine(plan, tree))
        installing.require_installable(plan.node, [*plan.disks.values()])
        argv = plan.command(installing.place(here.cluster, name))
        value = installing.as_json(plan, argv)
        if not here.dry_run:
            value["hardware"] = _carry_out(here, plan, argv)
            output.show(here, value, f"installed {name}")
            return
    ui.message(f"would erase on {node.ssh.host}: {installing.devices(plan.disks)}")
    output.show(here, value, shlex.join(argv))


@contextmanager
def _place(here: Current, name: str) -> Iterator[Path]:
    """Where the configuration is written: with --dry-run outside of the workspace."""
    from smallkube.operations import install as installing

    if here.dry_run:
        with tempfile.TemporaryDirectory(prefix="smallkube-") as scratch:
            yield Path(scratch).resolve() / "tree"
        return
    with lock(here.workspace.state_dir / "install.lock", "install a machine"):
        yield installing.place(here.cluster, name)


def _carry_out(here: Current, plan: "Installation", argv: Sequence[str]) -> str:
    from smallkube.operations import install as installing

    name, ssh = plan.node.name, plan.node.ssh
    ui.message(f"runs: {shlex.join(argv)}")
    ui.warn("nixos-anywhere does not verify the host key of the machine: use a network that you trust")
    question = f"erase {installing.devices(plan.disks)} of {ssh.user}@{ssh.host} and install {name}?"
    ui.confirm(question, yes=here.yes, word=name)
    try:
        brought = installing.execute(here.cluster, plan, argv)
    except KeyboardInterrupt:
        ui.warn(f"the host key was removed; first: {installing.again(name)}")
        raise
    if brought:
        ui.message(f"written: {brought}; read it, and commit it")
    ui.message("next: when it has started, inv deploy (all nodes: the others need the new peer), inv net.check")
    return brought
