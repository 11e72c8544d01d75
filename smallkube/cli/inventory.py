"""inventory.yaml: validate it, show it, print its schema."""

from invoke.context import Context

from smallkube.cli import current, task

__all__ = ["check", "schema", "show"]


@task(help={"json": "print the problems as JSON"})
def check(_: Context, json: bool = False) -> None:
    """Validate inventory.yaml and report every problem at once."""
    from smallkube.core import ui
    from smallkube.core.errors import ErrorGroup, UsageError

    here = current()
    try:
        inventory = here.inventory
    except (ErrorGroup, UsageError) as error:
        if json:
            problems = error.problems if isinstance(error, ErrorGroup) else (error,)
            ui.json_result(
                {"problems": [{"where": item.where, "message": item.message, "hint": item.hint} for item in problems]}
            )
        raise
    if json:
        ui.json_result({"problems": []})
    else:
        nodes = len(inventory.nodes)
        ui.result(f"{here.workspace.inventory_file.name}: valid, {nodes} node{'s' if nodes > 1 else ''}")


@task
def schema(_: Context) -> None:
    """Print the JSON Schema of inventory.yaml (for editors)."""
    from smallkube.core import ui
    from smallkube.inventory.load import json_schema

    ui.json_result(json_schema())


@task(help={"json": "print JSON"})
def show(_: Context, json: bool = False) -> None:
    """List the nodes with role, addresses and subnets."""
    from smallkube.core import ui

    inventory = current().inventory
    plan = inventory.addressing
    rows = [
        {
            "node": node.name,
            "role": node.role,
            "peer_ip": node.peer_ip,
            "ssh": f"{node.ssh.user}@{node.ssh.host}:{node.ssh.port}",
            "host6": plan.host6(node.index),
            "host4": plan.host4(node.index),
            "subnet6": plan.cidr6(node.index),
            "subnet4": plan.cidr4(node.index),
            "tags": ",".join(node.tags),
        }
        for node in inventory.nodes
    ]
    if json:
        ui.json_result(rows)
    else:
        shown = ("node", "role", "peer_ip", "host6", "host4", "subnet6", "subnet4", "tags")
        ui.table([name.upper() for name in shown], [[row[name] for name in shown] for row in rows])
