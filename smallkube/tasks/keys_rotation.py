"""Replacing keys that are in use: WireGuard key pairs, and certificates over the same keys."""

from invoke.context import Context

from smallkube.tasks import current, task, words
from smallkube.tasks.keys import NODE

__all__ = ["rotate_certificates", "rotate_wireguard"]


@task(
    iterable=["node"],
    help={
        "node": NODE,
        "yes": "do not ask",
        "dry_run": "show whose key would be replaced, change nothing",
        "json": "print JSON",
    },
)
def rotate_wireguard(_: Context, node: list[str], yes: bool = False, dry_run: bool = False, json: bool = False) -> None:
    """Replace the nodes' WireGuard keys, and peers.json with them.

    Needs no private key. The old keys are gone from keys/, but stay in git history.
    Interrupted at any point, the same command (or keys.generate) completes it.
    """
    from smallkube import ui
    from smallkube.secrets import rotate
    from smallkube.secrets.keyring import listed
    from smallkube.tasks import keys_output

    here = current()
    workspace, inventory = here.workspace, here.inventory
    nodes = [item.name for item in inventory.select(words(node))]
    if dry_run:
        rotate.plan_wireguard(workspace, inventory, nodes)
        keys_output.show_rotated(nodes, None, json)
        return
    outcome = rotate.WireguardOutcome((), ())
    with keys_output.changing(workspace) as completed:
        if remaining := [name for name in nodes if name not in completed]:
            planned = rotate.plan_wireguard(workspace, inventory, remaining)
            ui.confirm(f"replace the WireGuard keys of {listed(remaining)}?", yes=yes)
            outcome = rotate.act_wireguard(workspace, inventory, planned)
    keys_output.show_rotated(nodes, outcome, json)
    keys_output.after_wireguard(inventory.cluster.secrets.node_tokens)


@task(
    iterable=["node"],
    help={
        "node": NODE,
        "all": "also those that nothing is wrong with",
        "dry_run": "show what would be issued, change nothing",
        "json": "print JSON",
    },
)
def rotate_certificates(
    _: Context, node: list[str], all: bool = False, dry_run: bool = False, json: bool = False
) -> None:
    """Issue certificates anew that keys.check complains about.

    Names that are no longer those of the inventory, less than 60 days left, not over
    the private key. The private keys stay. Needs the master key.
    """
    from smallkube.errors import ManyErrors
    from smallkube.secrets import rotate
    from smallkube.tasks import keys_output

    here = current()
    nodes = {item.name for item in here.inventory.select(words(node))}
    if dry_run:
        planned = rotate.plan_certificates(here.workspace, here.inventory, nodes, everything=all)
    else:
        with keys_output.changing(here.workspace):
            planned = rotate.plan_certificates(here.workspace, here.inventory, nodes, everything=all)
            rotate.act_certificates(here.workspace, planned)
    keys_output.show_certificates(planned, json, dry_run)
    if planned.renew and not dry_run:
        keys_output.after_certificates(planned)
    if planned.failed:
        raise ManyErrors(planned.faults)
