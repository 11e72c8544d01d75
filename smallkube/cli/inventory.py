"""inventory.yaml: validate it, show it, print its schema."""

from typing import TYPE_CHECKING, Annotated

from smallkube.cli import output
from smallkube.cli.context import Current, changing, task
from smallkube.core import ui
from smallkube.core.errors import ErrorGroup, UsageError

if TYPE_CHECKING:
    from smallkube.inventory.verified import Verified


@task("json")
def check(here: Current) -> None:
    """Validate inventory.yaml.

    Reports every problem at once, each with file, line and key. Warns when the
    API server can't be reached by cluster.api.external_host, which before the
    first deploy it can't.
    """
    from smallkube.inventory import external_host, verified

    digest = verified.digest(here.workspace)
    found = verified.recall(here.workspace, digest) or _validate(here, digest)
    text = f"{here.workspace.inventory_file.name}: valid, {found.nodes} node{'s' if found.nodes > 1 else ''}"
    fault = external_host.fault(found.external_host, found.port)
    warnings = [f"cluster.api.external_host: {fault}"] if fault else []
    output.show(here, {"problems": [], "warnings": warnings}, text)
    for warning in warnings:
        ui.warn(f"{warning}; once deployed, `inv cluster.connect` reaches the API server over SSH")


def _validate(here: Current, digest: str) -> "Verified":
    """Raises what is wrong, having printed it as JSON if that is asked for."""
    from smallkube.inventory import verified

    try:
        cluster, nodes = here.inventory.cluster, here.inventory.nodes
    except (ErrorGroup, UsageError) as error:
        if here.json:
            problems = error.problems if isinstance(error, ErrorGroup) else (error,)
            ui.json_result(
                {"problems": [{"where": item.where, "message": item.message, "hint": item.hint} for item in problems]}
            )
        raise
    found = verified.Verified(len(nodes), cluster.api.external_host, cluster.api.port)
    if not cluster.addon_files and digest == verified.digest(here.workspace):  # unchanged while it was read
        verified.keep(here.workspace, digest, found)
    return found


@task("yes")
def import_(
    here: Current,
    file: Annotated[str, "what `tofu output -json` has printed, or a peers.json"],
    output: Annotated[str, "the output with the nodes (default: nodes)"] = "nodes",
) -> None:
    """Take nodes from OpenTofu, Terraform, peers.json.

    Adds new nodes to inventory.yaml, changes addresses of others, removes none.
    Shows the change and asks. The output is {"node1": "ADDRESS"}, or an object
    with peer_ip and ssh (host, port, user, become) in place of an address.
    """
    from smallkube.core.files import diff
    from smallkube.core.workspace import expanded
    from smallkube.inventory import edit, imports, load, positions
    from smallkube.operations import revoke

    known = {node.name for node in here.inventory.nodes}
    found = imports.read(expanded(file), output)
    path = here.workspace.inventory_file
    before = positions.read_text(path)
    after = imports.merged(before, found)
    inventory = load.parse(after, path)
    if only := sorted(known - set(found)):
        ui.message(f"only in {path.name}: {', '.join(only)}; inv nodes.remove removes a node")
    if after == before:
        ui.message("nothing to do: the inventory has all of this")
        return
    ui.result(diff(path.name, before, after).rstrip("\n"))
    ui.confirm(f"change {path.name}?", yes=here.yes)
    added = [name for name in found if name not in known]
    with changing(here):
        for name in added:
            revoke.forget(here.cluster, inventory, name)
    edit.write(path, after)
    scan = f"inv keys.scan --node {','.join(added)}, " if added else ""
    ui.message(f"next: {scan}inv keys.generate, inv nix.render, inv deploy")


@task()
def schema(here: Current) -> None:
    """Print the JSON Schema of inventory.yaml.

    Editors use it for completion.
    """
    from smallkube.inventory.load import json_schema

    ui.json_result(json_schema())


@task("json", "wide")
def show(here: Current) -> None:
    """Show the nodes' roles, addresses and subnets."""
    inventory = here.inventory
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
    columns = ("node", "role", "peer_ip", "host6", "host4", "subnet6", "subnet4", "tags")
    cells = [[row[name] for name in columns] for row in rows]
    output.table(here, rows, [name.upper() for name in columns], cells, spare=("SUBNET4", "HOST4", "SUBNET6"))
