"""The machines of the cluster: add and remove them, run commands on them, drain and reboot them."""

from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, SELECTION, Current, Limits, after_dashes, changing, task
from smallkube.core import ui
from smallkube.core.errors import ErrorGroup, UsageError

if TYPE_CHECKING:
    from smallkube.remote.fleet import NodeOutcome
    from smallkube.remote.host import Host


@task()
def add(
    here: Current,
    name: Annotated[str, "nodeN, with N from 2 to 254"],
    peer_ip: Annotated[str | None, "address where the other nodes reach it (no default)"] = None,
    ssh_host: Annotated[str | None, "address where this machine reaches it (default: the peer IP)"] = None,
    user: Annotated[str | None, "login user (default: root)"] = None,
    port: Annotated[int, Limits(1, 65535), "port of its SSH server (default: 22)"] = 22,
    become: Annotated[str | None, "how that user becomes root: none | sudo (default: none)"] = None,
) -> None:
    """Add a node to inventory.yaml.

    Comments and everything else in the file stay as they are. What an earlier
    node of this name has left in keys/ is removed: it gets new keys.
    """
    from smallkube.inventory import edit, load, positions
    from smallkube.operations import revoke as revoking

    here.inventory  # noqa: B018 - refuse to edit a file that is wrong already
    if peer_ip is None:
        hint = f"give the address where the other nodes reach {name}, such as --peer-ip 192.168.0.3"
        raise UsageError("no --peer-ip given", hint=hint)
    given: dict[str, str | int | None] = {"host": ssh_host, "port": port, "user": user, "become": become}
    ssh = {key: value for key, value in given.items() if value not in (None, 22)}
    file = here.workspace.inventory_file
    text = edit.add_node(positions.read_text(file), name, peer_ip=peer_ip, ssh=ssh)
    added = load.parse(text, file)
    with changing(here):
        removed = revoking.forget(here.cluster, added, name)
    if removed:
        ui.message(f"removed from keys/ what an earlier {name} had left: {', '.join(removed)}")
    edit.write(file, text)
    ui.message(f"added {name}; next: inv keys.scan --node {name}, inv keys.generate, inv nix.render, inv deploy")


@task("node", "yes")
def adopt(here: Current) -> None:
    """Take over a machine's boot, SSH and network.

    Of a machine that runs NixOS: writes its hardware configuration, boot loader,
    SSH keys and network to nix/hosts/. Shows the change and asks. Needs the host
    key of the machine (keys.scan), and changes nothing on it.
    """
    from smallkube.core.files import diff, write_file
    from smallkube.operations import adopt as adopting
    from smallkube.remote.fleet import raise_errors

    if not here.node:
        raise UsageError("no node selected", hint="give --node")
    workspace = here.workspace
    outcomes = here.ask(here.nodes, lambda host: adopting.files(workspace, host.node, adopting.read(host)))
    raise_errors(outcomes)
    wanted = {path: text for outcome in outcomes for path, text in (outcome.value or {}).items()}
    changed = {path: text for path, text in wanted.items() if workspace.read_text(path) != text}
    if not changed:
        ui.message("nothing to do: nix/hosts has all of this")
        return
    for path, text in changed.items():
        ui.result(diff(workspace.relative(path), workspace.read_text(path) or "", text).rstrip("\n"))
    ui.confirm(f"write {', '.join(map(workspace.relative, changed))}?", yes=here.yes)
    for path, text in changed.items():
        write_file(path, text)
    ui.message("next: read what was written; inv keys.generate, inv nix.render, inv nix.check, inv deploy --goal test")


@task(*SELECTION, "json")
def exec_(
    here: Current,
    root: Annotated[bool, "run as root (default), or as the login user"] = True,
    timeout: Annotated[int, Limits(1, 86_400), "seconds without output after which a node has failed"] = 300,
) -> None:
    """Run a command on the nodes, in parallel.

    The command follows --:
    inv nodes.exec --node node2 -- systemctl status kubelet
    inv nodes.exec -- sh -c 'df / | tail -1'
    """
    from smallkube.operations import machines
    from smallkube.remote.host import Command

    if not (argv := tuple(after_dashes())):
        hint = "put it after two dashes: inv nodes.exec -- uptime; for a shell: -- sh -c 'a | b'"
        raise UsageError("no command given", hint=hint)
    outcomes = here.ask(here.nodes, lambda host: host.run(Command(argv, root=root, timeout=timeout)))
    if here.json:
        ui.json_result([machines.as_json(outcome) for outcome in outcomes])
    elif len(outcomes) == 1 and (answer := outcomes[0].value):  # as it is
        ui.raw_result(answer.stdout)
        if answer.stderr:
            ui.message(answer.stderr.rstrip("\n"))
    else:
        for name, answer in ((outcome.node.name, outcome.value) for outcome in outcomes if outcome.value):
            for line in answer.text.splitlines():
                ui.result(f"{name}: {line}")
            for line in answer.stderr.splitlines():
                ui.message(f"{name}: {line}")
    if faults := list(machines.faults(outcomes)):
        raise ErrorGroup(faults)


@task(*SELECTION, "yes", "json", "wide")
def drain(here: Current, timeout: Annotated[int, "seconds for the pods of a node to end"] = 300) -> None:
    """Cordon nodes and evict their pods."""
    from smallkube.kube import members
    from smallkube.remote.fleet import NodeOutcome

    stop = Event()

    def evict(primary: "Host", host: str) -> None:
        members.drain(primary, host, timeout, stop.is_set)

    _change(here, evict, NodeOutcome.DRAINED, stop, "evict all pods of")


@task(*SELECTION, "json", "wide")
def uncordon(here: Current) -> None:
    """Make nodes schedulable again."""
    from smallkube.kube import members
    from smallkube.remote.fleet import NodeOutcome

    _change(here, members.uncordon, NodeOutcome.UNCORDONED, Event())


def _change(
    here: Current, act: "Callable[[Host, str], None]", outcome: "NodeOutcome", stop: Event, question: str = ""
) -> None:
    """Change the selected nodes; without a flag none, not all: raises UsageError then."""
    from smallkube.kube import members

    if not (here.node or here.role or here.tag):
        raise UsageError("no node selected", hint="give --node, --role or --tag")
    names = [node.name for node in here.nodes]
    if question:
        ui.confirm(f"{question} {', '.join(names)}?", yes=here.yes)
    with ui.Progress(names) as progress:
        reports = members.change(here.inventory, here.nodes, here.connect, act, outcome, progress, stop)
    output.show_reports(here, reports)


@task(*SELECTION, *CHANGE, "wide")
def reboot(
    here: Current,
    timeout: Annotated[int, Limits(10, 86_400), "seconds for a machine to be back and Ready"] = 600,
    drain_timeout: Annotated[int, Limits(10, 86_400), "seconds for the pods of a node to end"] = 300,
    drain: Annotated[bool, "drain each node first (default where the API server runs)"] = True,
) -> None:
    """Reboot the nodes one by one, workers first.

    Drains each node first, and waits until it is Ready before the next one.
    """
    from smallkube.kube import members
    from smallkube.operations import reboot as rebooting

    nodes = here.nodes
    undrained = members.api_down(here.inventory, here.connect) if drain else "--no-drain"
    plan = rebooting.make(nodes, undrained, timeout, drain_timeout)
    drained = "nodes of the cluster are drained first, and uncordoned afterwards"
    ui.message(f"{undrained}: nothing is drained" if undrained else drained)
    names = [each.name for each in plan.nodes]
    output.announce(here, plan.nodes)
    if here.dry_run:
        output.show(here, names, f"one after the other: {', '.join(names)}")
        return
    ui.confirm(f"restart {', '.join(names)}, one after the other?", yes=here.yes)
    with ui.Progress(names) as progress:
        reports = rebooting.execute(plan, here.inventory, here.workspace, here.connect, progress)
    output.show_reports(here, reports)
