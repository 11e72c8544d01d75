"""Host keys of machines that are not there yet."""

import shutil
from typing import Annotated

from smallkube.cli.context import Current, changing, task
from smallkube.core import ui
from smallkube.core.errors import UsageError

_PATH = "etc/ssh/ssh_host_ed25519_key"
"""Where sshd of NixOS has it, below the root of the machine."""


@task()
def new_host(
    here: Current,
    name: Annotated[str, "nodeN, which is in inventory.yaml"],
    out: Annotated[str, "folder for the private key: a new one, in memory"],
    replace: Annotated[bool, "the node has a stored host key: replace it"] = False,
) -> None:
    """Make the host key of a machine to be installed.

    Stores the public half in keys/hosts, so that its secrets are encrypted to it
    and no other key is ever accepted, and writes the private half to
    OUT/etc/ssh, for nixos-anywhere --extra-files OUT. Remove OUT once the
    machine is installed.
    """
    from smallkube.core.files import write_file
    from smallkube.core.workspace import expanded
    from smallkube.secrets import host_keys, transaction

    node, root = here.inventory.node(name), expanded(out).absolute()
    stored = host_keys.read_host_key(here.workspace, node.name)
    if stored and not replace:
        raise UsageError("is there already", where=f"keys/hosts/{name}.pub", hint="pass --replace for a new machine")
    if root.exists():
        raise UsageError("exists already", where=str(root), hint="name a new folder")
    private, public = host_keys.make()
    with changing(here):
        root.mkdir(mode=0o700, parents=True)
        try:
            write_file(root / f"{_PATH}.pub", f"{public} {name}\n")
            write_file(root / _PATH, private, 0o600)
            transaction.commit(here.workspace, {f"hosts/{name}.pub": f"{public} {name}\n".encode()})
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
    ui.message(f"written: keys/hosts/{name}.pub ({public.fingerprint})")
    ui.message(
        f"next: inv keys.generate, {'inv keys.rekey, ' if stored else ''}inv nix.render; then install with {out}"
    )
