"""The machines of the cluster: add one to the inventory, take one out."""

from invoke.context import Context

from smallkube.tasks import current, task

__all__ = ["add", "remove"]


@task(
    positional=["name"],
    help={
        "name": "nodeN, with N from 2 to 254",
        "peer-ip": "address at which the other nodes reach it",
        "ssh-host": "address at which this machine reaches it, when that differs",
    },
)
def add(_: Context, name: str, peer_ip: str, ssh_host: str | None = None) -> None:
    """Add a node to inventory.yaml, keeping everything else as it is."""
    from smallkube import inventory, inventory_edit, inventory_yaml, ui
    from smallkube.workspace import write_file

    here = current()
    here.inventory  # noqa: B018 - refuse to edit a file that is wrong already
    file = here.workspace.inventory_file
    text = inventory_edit.add_node(inventory_yaml.read_text(file), name, peer_ip=peer_ip, ssh_host=ssh_host)
    inventory.parse(text, file)
    write_file(file, text, mode=file.stat().st_mode & 0o777)
    ui.message(f"added {name}; next: inv keys.scan --node {name}, inv keys.generate, inv nix.render, inv deploy")


@task(positional=["name"], help={"name": "nodeN", "yes": "do not ask"})
def remove(_: Context, name: str, yes: bool = False) -> None:
    """Take a node out of inventory.yaml; the others keep their indices."""
    from smallkube import inventory, inventory_edit, inventory_yaml, ui
    from smallkube.workspace import write_file

    here = current()
    here.inventory.node(name)
    file = here.workspace.inventory_file
    text = inventory_edit.remove_node(inventory_yaml.read_text(file), name)
    inventory.parse(text, file)
    ui.confirm(f"remove {name} from {file.name}?", yes=yes)
    write_file(file, text, mode=file.stat().st_mode & 0o777)
    ui.message(f"removed {name}; its files in keys/ are left (inv keys.check lists them); next: inv keys.generate,")
    ui.message("inv nix.render, inv deploy, so that the other nodes forget it")
