"""The machines of the cluster: add one, take one out, run commands on them, drain and restart them."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import current, task, words

if TYPE_CHECKING:
    from smallkube.cli import Current
    from smallkube.inventory.models import Node
    from smallkube.remote.command import Result
    from smallkube.remote.fleet import Outcome
    from smallkube.remote.host import Host
    from smallkube.remote.rolling import NodeOutcome, Report

__all__ = ["add", "drain", "exec_", "reboot", "remove", "uncordon"]

SELECTION = {
    "node": "only these nodes (repeatable, or separated by commas)",
    "role": "only the primary, or only the workers: primary | worker",
    "tag": "only nodes with this tag",
}


@task(
    positional=["name"],
    help={
        "name": "nodeN, with N from 2 to 254",
        "peer-ip": "address at which the other nodes reach it",
        "ssh-host": "address at which this machine reaches it, when that differs",
    },
)
def add(_: Context, name: str, peer_ip: str, ssh_host: str | None = None) -> None:
    """Add a node to inventory.yaml, keeping all else as it is."""
    from smallkube.core import ui
    from smallkube.core.workspace import write_file
    from smallkube.inventory import edit, load, positions

    here = current()
    here.inventory  # noqa: B018 - refuse to edit a file that is wrong already
    file = here.workspace.inventory_file
    text = edit.add_node(positions.read_text(file), name, peer_ip=peer_ip, ssh_host=ssh_host)
    load.parse(text, file)
    write_file(file, text, mode=file.stat().st_mode & 0o777)
    ui.message(f"added {name}; next: inv keys.scan --node {name}, inv keys.generate, inv nix.render, inv deploy")


@task(
    positional=["name"],
    help={
        "name": "nodeN",
        "revoke": "it is compromised: put it out of the running cluster, and see it refused",
        "dry-run": "with --revoke: print the steps and touch nothing",
        "yes": "do not ask",
        "json": "with --revoke: print the outcome as JSON",
    },
)
def remove(
    _: Context, name: str, yes: bool = False, revoke: bool = False, dry_run: bool = False, json: bool = False
) -> None:
    """Take a node out of inventory.yaml; no other is renumbered.

    With --revoke also out of the cluster: its token and its WireGuard key are taken from all other
    machines, its Node object goes, its files in keys/ last. Interrupted at any point, the same
    command goes on from there.
    """
    from smallkube.cli import nodes_revoke
    from smallkube.core import ui
    from smallkube.core.errors import UsageError
    from smallkube.core.workspace import write_file
    from smallkube.inventory import edit, load, positions

    if revoke:
        nodes_revoke.revoke(current(), name, yes=yes, dry_run=dry_run, json=json)
        return
    if dry_run or json:
        raise UsageError("--dry-run and --json are for --revoke")
    here = current()
    here.inventory.node(name)
    file = here.workspace.inventory_file
    text = edit.remove_node(positions.read_text(file), name)
    load.parse(text, file)
    ui.confirm(f"remove {name} from {file.name}?", yes=yes)
    write_file(file, text, mode=file.stat().st_mode & 0o777)
    ui.message(f"removed {name}; its files in keys/ are left (inv keys.check lists them); next: inv keys.generate,")
    ui.message("inv nix.render, inv deploy, so that the other nodes forget it")


@task(
    name="exec",
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        "root": "as root (default), or as the user who logs in",
        "timeout": "seconds of silence after which a node is given up",
        "json": "print the answers as JSON",
    },
)
def exec_(
    _: Context,
    node: list[str],
    role: list[str],
    tag: list[str],
    root: bool = True,
    timeout: int = 300,
    json: bool = False,
) -> None:
    """Run the command that follows -- on the nodes, in parallel.

    inv nodes.exec --node node2 -- journalctl --boot --unit kubelet
    inv nodes.exec -- sh -c 'df / | tail -1'
    """
    from smallkube.core import ui
    from smallkube.core.errors import ErrorGroup
    from smallkube.operations import execute
    from smallkube.remote.ssh import connector

    here = current()
    wanted = execute.command(_after_dashes(), root=root, timeout=timeout)
    nodes = here.inventory.select(words(node), words(role), words(tag))
    outcomes = execute.everywhere(nodes, wanted, connector(here.workspace))
    if json:
        ui.json_result([execute.as_json(outcome) for outcome in outcomes])
    else:
        _show_answers(outcomes)
    if faults := list(execute.faults(outcomes)):
        raise ErrorGroup(faults)


def _after_dashes() -> Sequence[str]:
    """What follows ``--``, word by word: Invoke (2.2) has it only joined by blanks, and not where a task could see."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else ()


def _show_answers(outcomes: "Sequence[Outcome[Result]]") -> None:
    """One node's output as it is, those of several with the node's name before each line."""
    from smallkube.core import ui
    from smallkube.operations import execute

    for outcome in outcomes:
        answer = outcome.value
        if answer and len(outcomes) == 1:
            ui.raw_result(answer.stdout)
            ui.message(answer.stderr.rstrip("\n")) if answer.stderr else None
        elif answer:
            for line in execute.lines(outcome.node.name, answer.text):
                ui.result(line)
            for line in execute.lines(outcome.node.name, answer.stderr):
                ui.message(line)


@task(
    iterable=["node", "role", "tag"],
    help={**SELECTION, "timeout": "seconds for each node's pods to end", "yes": "do not ask", "json": "print JSON"},
)
def drain(
    _: Context,
    node: list[str],
    role: list[str],
    tag: list[str],
    timeout: int = 300,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Evict the pods of the named nodes, and let no new ones in."""
    from smallkube.core import ui
    from smallkube.kube import members
    from smallkube.remote import rolling

    here, nodes = _named(node, role, tag)
    ui.confirm(f"evict all pods of {', '.join(each.name for each in nodes)}?", yes=yes)
    stop = threading.Event()

    def evict(primary: "Host", host: str) -> None:
        members.drain(primary, host, timeout, stop.is_set)

    _change(here, nodes, evict, rolling.NodeOutcome.DRAINED, stop, json)


@task(iterable=["node", "role", "tag"], help={**SELECTION, "json": "print JSON"})
def uncordon(_: Context, node: list[str], role: list[str], tag: list[str], json: bool = False) -> None:
    """Let pods be scheduled on the named nodes again."""
    from smallkube.kube import members
    from smallkube.remote import rolling

    here, nodes = _named(node, role, tag)
    _change(here, nodes, members.uncordon, rolling.NodeOutcome.UNCORDONED, threading.Event(), json)


def _named(node: list[str], role: list[str], tag: list[str]) -> "tuple[Current, tuple[Node, ...]]":
    """The nodes asked for; all of them is never what is meant by naming none."""
    from smallkube.core.errors import UsageError

    here = current()
    if not (node or role or tag):
        raise UsageError("no node named", hint="--node, --role or --tag says which")
    return here, here.inventory.select(words(node), words(role), words(tag))


def _change(
    here: "Current",
    nodes: "Sequence[Node]",
    act: "Callable[[Host, str], None]",
    outcome: "NodeOutcome",
    stop: threading.Event,
    json: bool,
) -> None:
    from smallkube.core import ui
    from smallkube.kube import members
    from smallkube.remote.ssh import connector

    with ui.Progress([each.name for each in nodes]) as progress:
        reports = members.change(here.inventory, nodes, connector(here.workspace), act, outcome, progress, stop)
    _show_reports(reports, json)


@task(
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        "timeout": "seconds a machine may take to be back and well",
        "drain-timeout": "seconds for a node's pods to end",
        "drain": "evict the pods before (default where the API server runs)",
        "dry-run": "print the plan and touch nothing",
        "yes": "do not ask",
        "json": "print JSON",
    },
)
def reboot(
    _: Context,
    node: list[str],
    role: list[str],
    tag: list[str],
    yes: bool = False,
    timeout: int = 600,
    dry_run: bool = False,
    drain_timeout: int = 300,
    drain: bool = True,
    json: bool = False,
) -> None:
    """Restart the nodes one by one, workers first; await each."""
    from smallkube.core import ui
    from smallkube.kube import members
    from smallkube.operations import reboot as rebooting
    from smallkube.remote.ssh import connector

    here = current()
    connect = connector(here.workspace)
    nodes = here.inventory.select(words(node), words(role), words(tag))
    undrained = members.api_down(here.inventory, connect) if drain else "--no-drain"
    plan = rebooting.make(nodes, undrained, timeout, drain_timeout)
    drained = "members of the cluster are drained before, and admitted again after"
    ui.message(f"{undrained}: nothing is drained" if undrained else drained)
    names = [each.name for each in plan.nodes]
    if dry_run:
        ui.json_result(names) if json else ui.result(f"one after the other: {', '.join(names)}")
        return
    ui.confirm(f"restart {', '.join(names)}, one after the other?", yes=yes)
    with ui.Progress(names) as progress:
        reports = rebooting.execute(plan, here.inventory, here.workspace, connect, progress)
    _show_reports(reports, json)


def _show_reports(reports: "Sequence[Report]", json: bool) -> None:
    from dataclasses import asdict

    from smallkube.core import ui
    from smallkube.core.errors import SmallkubeError

    if json:
        ui.json_result([asdict(report) for report in reports])
    else:
        rows = [(report.node, report.outcome, f"{report.seconds:.1f}", report.reason) for report in reports]
        ui.table(("NODE", "OUTCOME", "SECONDS", "REASON"), rows)
    if bad := [report for report in reports if not report.good]:
        raise SmallkubeError(", ".join(f"{report.node} {report.outcome}" for report in bad))
