"""Nodes that leave the cluster: removed or revoked there, and undone on their machine."""

import shlex
from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import CHANGE, Current, Limits, task, words
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError, UsageError, listed

if TYPE_CHECKING:
    from smallkube.operations.reset import Done


@task(*CHANGE)
def remove(
    here: Current,
    name: Annotated[str, "nodeN"],
    revoke: Annotated[bool, "the node is compromised: also revoke its access, and verify that it is refused"] = False,
    timeout: Annotated[int, Limits(10, 86_400), "seconds for its pods to end (default: 300)"] = 300,
) -> None:
    """Remove a node, or revoke a compromised one.

    Drains it, removes it from inventory.yaml, where the other nodes keep their
    numbers, and deletes its Node object. With --revoke its certificates are
    refused and its tunnel closed at once, then all that others know of it is
    removed, and its keys. Says what is left to do. After an interruption the same
    command resumes. The node itself may be off.
    """
    from smallkube.operations import removal

    if revoke:
        _revoke(here, name)
        return
    runner = output.Runner(here, "remove", rotation=False)
    plan = removal.make(here.cluster, name, here.connect)
    if plan.unknown:
        ui.warn(f"not known whether {name} is a member of the cluster: {plan.unknown}")
    operation = removal.Removal(plan, here.cluster, here.connect, timeout).operation()
    ends = " and end its pods" if plan.member else ""
    if not runner.run(operation, f"remove {name}{ends}?", [here.inventory.primary]):
        return
    known = "unknown" if plan.unknown else "deleted" if plan.member else "none"
    runner.show({"node": name, "node_object": known}, f"removed {name}")
    if plan.unknown:
        ui.message(f"once the API server runs: inv nodes.remove {name}, which deletes its Node object if there is one")
    ui.message("next: inv keys.generate, inv nix.render, inv deploy, which removes it from the other nodes;")
    ui.message(f"its files in keys/ are left (inv keys.check lists them); the machine still has the secrets of {name}:")
    ssh = plan.node.ssh
    flags = [f"--user {ssh.user}"] if ssh.user != "root" else []
    flags += [f"--port {ssh.port}"] if ssh.port != 22 else []
    flags += [f"--become {ssh.become}"] if ssh.become != "none" else []
    way = " ".join(("--ssh-host", shlex.quote(ssh.host), *flags)) if plan.inside else "--ssh-host ADDRESS"
    ui.message(f"inv nodes.reset --node {name} {way}, or shut it down")


@task("node", *CHANGE)
def reset(
    here: Current,
    ssh_host: Annotated[str | None, "address of a node that is removed (default: of the inventory)"] = None,
    user: Annotated[str | None, "login user (default: root)"] = None,
    port: Annotated[int, Limits(1, 65535), "port of its SSH server (default: 22)"] = 22,
    become: Annotated[str | None, "how that user becomes root: none | sudo (default: none)"] = None,
    force: Annotated[bool, "also a node of inventory.yaml, or one that has a Node object"] = False,
) -> None:
    """Undo a machine that is no node any more.

    Stops the services of the cluster there and removes their state, images,
    links, firewall tables and secrets. NixOS and its configuration stay, and SSH.
    Asks for the node's name. May be repeated.
    """
    from smallkube.operations import reset as resetting

    given: dict[str, str | int | None] = {"host": ssh_host, "port": port, "user": user, "become": become}
    ssh = {key: value for key, value in given.items() if value not in (None, 22)}
    if len(names := words(here.node)) != 1:
        given_names = f", not {listed(names)}" if names else ""
        raise UsageError(f"one node at a time{given_names}", hint="give --node nodeN")
    found = resetting.target(here.cluster, names[0], ssh, force=force)
    node = found.node
    output.announce(here, [node])
    if here.dry_run:
        output.show(here, resetting.STEPS, "\n".join(resetting.STEPS))
        return
    if not force and (unknown := resetting.refuse_member(here.inventory, node, here.connect)):
        ui.warn(f"not known whether {node.name} still has a Node object: {unknown}")
    for text in (*resetting.STEPS, f"keep {resetting.KEPT}"):
        ui.message(f"- {text}")
    ui.confirm_name(f"this resets {node.name} ({node.ssh.host})", node.name, yes=here.yes)
    with output.steps(node.name, shown=True) as step, here.connect(node) as host:
        step("reset")
        done = resetting.execute(host, found)
    _show_reset(here, node.name, done)


def _show_reset(here: Current, name: str, done: "Done") -> None:
    """The result. Raises SmallkubeError when something is left."""
    value = {"node": name, "stopped": done.stopped, "removed": done.removed, "left": done.left}
    lines = [*(f"stopped {unit}" for unit in done.stopped), *(f"removed {each}" for each in done.removed)]
    output.show(here, value, "\n".join([*lines, *(f"left: {each}" for each in done.left)]) or "nothing to do")
    if done.left:
        hint = "run the same command again; a restart of the machine ends what is stuck"
        raise SmallkubeError(f"not everything was removed: {listed(done.left)}", where=name, hint=hint)
    ui.message(
        "its NixOS starts the services again when the machine does, empty and without access: reinstall it, switch"
    )
    ui.message("it to a configuration without the cluster, or leave it off")


def _revoke(here: Current, name: str) -> None:
    from smallkube.operations import revoke as revoking
    from smallkube.operations.master import reissue
    from smallkube.secrets.age import require_master

    runner = output.Runner(here, "revoke", rotation=False)
    plan = revoking.make(here.cluster, name)
    master = None if here.dry_run else require_master(here.workspace, "to try the node's certificates")
    revocation = revoking.Revocation(plan.others, master, here.connect, runner.deploy, plan)
    if not runner.run(revocation.operation(), f"revoke {name}, and end its pods?", plan.others.inventory.nodes):
        return
    shared = [row.name for row in plan.shared]
    value = {"node": name, "removed": revocation.removed, "shared": shared, "exposed": revocation.exposed}
    lines = [f"{name} is revoked: its certificates are refused, no other node has its WireGuard key"]
    lines += [f"removed keys/{file}" for file in revocation.removed]
    runner.show(value, "\n".join(lines))
    if revocation.exposed is None:
        ui.warn("the API server did not run: which Secrets the pods on it used is not known")
    elif revocation.exposed:
        ui.warn(f"pods on {name} used these Secrets, change them at their source: {', '.join(revocation.exposed)}")
    ui.message(f"so could pods that ran on {name} earlier; commit inventory.yaml, keys/ and nix/")
    ui.message(f"the machine itself is unchanged: take it off the network; nix/hosts/{name}.nix is left")
    if shared:
        details = "; ".join(f"{command} ({', '.join(names)})" for command, names in reissue(plan.shared).items())
        message = f"{name} is revoked, but keys/ had let it read more than its own"
        raise SmallkubeError(message, hint=f"replace it: {details}")
