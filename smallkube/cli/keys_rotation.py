"""Replacing WireGuard key pairs that are in use."""

from invoke.context import Context

from smallkube.cli import current, task, words
from smallkube.cli.keys import NODE

__all__ = ["rotate_wireguard"]


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
    from smallkube.cli import keys_output
    from smallkube.core import ui
    from smallkube.operations import wireguard
    from smallkube.secrets.keyring import listed

    here = current()
    workspace, inventory = here.workspace, here.inventory
    nodes = [item.name for item in inventory.select(words(node))]
    if dry_run:
        wireguard.plan_wireguard(workspace, inventory, nodes)
        keys_output.show_rotated(nodes, None, json)
        return
    outcome = wireguard.WireguardOutcome((), ())
    with keys_output.changing(workspace) as completed:
        if remaining := [name for name in nodes if name not in completed]:
            planned = wireguard.plan_wireguard(workspace, inventory, remaining)
            ui.confirm(f"replace the WireGuard keys of {listed(remaining)}?", yes=yes)
            outcome = wireguard.act_wireguard(workspace, inventory, planned)
    keys_output.show_rotated(nodes, outcome, json)
    keys_output.after_wireguard(inventory.cluster.secrets.node_tokens)
