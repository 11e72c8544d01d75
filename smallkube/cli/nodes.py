"""The machines of the cluster: add and remove them, run commands on them, drain and reboot them."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from invoke.context import Context

from smallkube.cli import output
from smallkube.cli.context import CHANGE, JSON, SELECTION, Current, after_dashes, current, task
from smallkube.core import ui
from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError

if TYPE_CHECKING:
    from smallkube.inventory.models import Node
    from smallkube.remote.command import Result
    from smallkube.remote.fleet import NodeOutcome, Outcome
    from smallkube.remote.host import Host


@task(
    positional=["name"],
    help={
        "name": "nodeN, with N from 2 to 254",
        "peer-ip": "address where the other nodes reach it",
        "ssh-host": "address where this machine reaches it (default: the peer IP)",
    },
)
def add(_: Context, name: str, peer_ip: str, ssh_host: str | None = None) -> None:
    """Add a node to inventory.yaml.

    Comments and everything else in the file stay as they are.
    """
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
        **CHANGE,
        "name": "nodeN",
        "revoke": "the node is compromised: also revoke its access, and verify that it is refused",
        "dry-run": "with --revoke: print the steps and change nothing",
        "json": "with --revoke: print JSON",
    },
)
def remove(
    _: Context, name: str, yes: bool = False, revoke: bool = False, dry_run: bool = False, json: bool = False
) -> None:
    """Remove a node, or revoke a compromised one.

    Removes it from inventory.yaml; the other nodes keep their numbers. With
    --revoke also from the running cluster: its token and WireGuard key are
    removed from all other machines, then its Node object, then its files in
    keys/. After an interruption the same command resumes.
    """
    from smallkube.core.workspace import write_file
    from smallkube.inventory import edit, load, positions

    here = current()
    if revoke:
        _revoke(here, name, yes=yes, dry_run=dry_run, json=json)
        return
    if dry_run or json:
        raise UsageError("--dry-run and --json are for --revoke")
    here.inventory.node(name)
    file = here.workspace.inventory_file
    text = edit.remove_node(positions.read_text(file), name)
    load.parse(text, file)
    ui.confirm(f"remove {name} from {file.name}?", yes=yes)
    write_file(file, text, mode=file.stat().st_mode & 0o777)
    ui.message(f"removed {name}; its files in keys/ are left (inv keys.check lists them); next: inv keys.generate,")
    ui.message("inv nix.render, inv deploy, which removes it from the other nodes")


def _revoke(here: Current, name: str, *, yes: bool, dry_run: bool, json: bool) -> None:
    from smallkube.operations import revoke as revoking
    from smallkube.operations.master import reissue
    from smallkube.secrets.age import require_master

    runner = output.Runner(here, revoking.NAME, dry_run=dry_run, yes=yes, json=json)
    plan = revoking.make(here.cluster, name)
    master = None if dry_run else require_master(here.workspace, "to try the node's token")
    revocation = revoking.Revocation(plan, master, here.connect, runner.deploy)
    if not runner.run(revocation.operation(), f"revoke {name}, and end its pods?"):
        return
    shared = [row.name for row in plan.shared]
    value = {"node": name, "removed": revocation.removed, "shared": shared, "exposed": revocation.exposed}
    lines = [f"{name} is revoked: its token is refused, no other node has its WireGuard key"]
    lines += [f"removed keys/{file}" for file in revocation.removed]
    runner.show(value, "\n".join(lines))
    if revocation.exposed is None:
        ui.warn("the API server did not run: which Secrets the pods on it used is not known")
    elif revocation.exposed:
        ui.warn(f"pods on {name} used these Secrets, change them at their source: {', '.join(revocation.exposed)}")
    ui.message(f"so could pods that ran on {name} earlier; commit inventory.yaml, keys/ and nix/")
    ui.message(f"the machine itself is unchanged: take it off the network; nix/hosts/{name}.nix is left")
    if shared:
        details = "; ".join(f"{row.command} ({', '.join(row.names)})" for row in reissue(plan.shared))
        message = f"{name} is revoked, but keys/ had let it read more than its own"
        raise SmallkubeError(message, hint=f"replace it: {details}")


@task(
    name="exec",
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        "root": "run as root (default), or as the login user",
        "timeout": "seconds without output after which a node has failed",
        **JSON,
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
    """Run a command on the nodes, in parallel.

    The command follows --:
    inv nodes.exec --node node2 -- journalctl --boot --unit kubelet
    inv nodes.exec -- sh -c 'df / | tail -1'
    """
    from smallkube.operations import execute

    here = current()
    wanted = execute.command(after_dashes(), root=root, timeout=timeout)
    outcomes = execute.everywhere(here.select(node, role, tag), wanted, here.connect)
    if json:
        ui.json_result([execute.as_json(outcome) for outcome in outcomes])
    else:
        _show_answers(outcomes)
    if faults := list(execute.faults(outcomes)):
        raise ErrorGroup(faults)


def _show_answers(outcomes: "Sequence[Outcome[Result]]") -> None:
    """One node's output as it is, those of several with the node's name before each line."""
    from smallkube.operations import execute

    for outcome in outcomes:
        answer = outcome.value
        if answer and len(outcomes) == 1:
            ui.raw_result(answer.stdout)
            if answer.stderr:
                ui.message(answer.stderr.rstrip("\n"))
        elif answer:
            for line in execute.lines(outcome.node.name, answer.text):
                ui.result(line)
            for line in execute.lines(outcome.node.name, answer.stderr):
                ui.message(line)


@task(
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        "timeout": "seconds for the pods of a node to end",
        "yes": "do not ask for confirmation",
        **JSON,
    },
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
    """Cordon nodes and evict their pods."""
    from smallkube.kube import members
    from smallkube.remote import fleet

    here, nodes = _named(node, role, tag)
    ui.confirm(f"evict all pods of {', '.join(each.name for each in nodes)}?", yes=yes)
    stop = threading.Event()

    def evict(primary: "Host", host: str) -> None:
        members.drain(primary, host, timeout, stop.is_set)

    _change(here, nodes, evict, fleet.NodeOutcome.DRAINED, stop, json)


@task(iterable=["node", "role", "tag"], help={**SELECTION, **JSON})
def uncordon(_: Context, node: list[str], role: list[str], tag: list[str], json: bool = False) -> None:
    """Make nodes schedulable again."""
    from smallkube.kube import members
    from smallkube.remote import fleet

    here, nodes = _named(node, role, tag)
    _change(here, nodes, members.uncordon, fleet.NodeOutcome.UNCORDONED, threading.Event(), json)


def _named(node: list[str], role: list[str], tag: list[str]) -> "tuple[Current, tuple[Node, ...]]":
    """The selected nodes; without a flag none, not all. Raises UsageError then."""
    here = current()
    if not (node or role or tag):
        raise UsageError("no node selected", hint="give --node, --role or --tag")
    return here, here.select(node, role, tag)


def _change(
    here: Current,
    nodes: "Sequence[Node]",
    act: "Callable[[Host, str], None]",
    outcome: "NodeOutcome",
    stop: threading.Event,
    json: bool,
) -> None:
    from smallkube.kube import members

    with ui.Progress([each.name for each in nodes]) as progress:
        reports = members.change(here.inventory, nodes, here.connect, act, outcome, progress, stop)
    output.show_reports(reports, json=json)


@task(
    iterable=["node", "role", "tag"],
    help={
        **SELECTION,
        **CHANGE,
        "timeout": "seconds for a machine to be back and Ready",
        "drain-timeout": "seconds for the pods of a node to end",
        "drain": "drain each node first (default where the API server runs)",
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
    """Reboot the nodes one by one, workers first.

    Drains each node first, and waits until it is Ready before the next one.
    """
    from smallkube.kube import members
    from smallkube.operations import reboot as rebooting

    here = current()
    nodes = here.select(node, role, tag)
    undrained = members.api_down(here.inventory, here.connect) if drain else "--no-drain"
    plan = rebooting.make(nodes, undrained, timeout, drain_timeout)
    drained = "nodes of the cluster are drained first, and uncordoned afterwards"
    ui.message(f"{undrained}: nothing is drained" if undrained else drained)
    names = [each.name for each in plan.nodes]
    if dry_run:
        output.show(names, f"one after the other: {', '.join(names)}", json=json)
        return
    ui.confirm(f"restart {', '.join(names)}, one after the other?", yes=yes)
    with ui.Progress(names) as progress:
        reports = rebooting.execute(plan, here.inventory, here.workspace, here.connect, progress)
    output.show_reports(reports, json=json)
