"""Host keys of machines that are not there yet."""

import shutil
from contextlib import suppress
from typing import Annotated

from smallkube.cli.context import Current, changing, task
from smallkube.core import ui
from smallkube.core.errors import UsageError


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
    OUT/etc/ssh, for nodes.install, which removes OUT, or nixos-anywhere
    --extra-files OUT.
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
            write_file(root / f"{host_keys.FILE}.pub", f"{public} {name}\n")
            write_file(root / host_keys.FILE, private, 0o600)
            with suppress(OSError):  # the machine gets these modes, and not those of our umask
                for folder in (root / "etc", root / "etc/ssh"):
                    folder.chmod(0o755)
            transaction.commit(here.workspace, {f"hosts/{name}.pub": f"{public} {name}\n".encode()})
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
    ui.message(f"written: keys/hosts/{name}.pub ({public.fingerprint})")
    rekey = "inv keys.rekey, " if stored else ""
    ui.message(f"next: inv keys.generate, {rekey}inv nix.render; then inv nodes.install {name} --extra-files {out}")
