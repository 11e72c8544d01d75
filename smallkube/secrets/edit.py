"""One secret by name: showing it, and editing it in a private folder in memory, written only when changed and valid."""

import codecs
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError, listed
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, certificates, kinds, peers, policy, transaction
from smallkube.secrets.keyring import find_keyring, load_keyring, require_host_keys
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Change, Keys

_PREFIX = "smallkube-edit-"


def show(cluster: Cluster, name: str) -> bytes:
    """The plaintext of the secret called ``name`` (as in keys/, with or without .age).

    Raises UsageError when it or the master is missing, and SmallkubeError when it can't be opened.
    """
    return _open(cluster, name)[2]


def _open(cluster: Cluster, name: str) -> tuple[Keys, Secret, bytes]:
    keys = transaction.read_keys(cluster.workspace)
    table = {row.name: row for row in policy.expected(cluster.inventory, keys.files)}
    row = table.get(name.removeprefix("keys/").removesuffix(policy.SUFFIX))
    if row is None:
        raise UsageError(f"no secret {name!r}", hint=f"there are {listed(table)}; see `inv keys.list`")
    master = age.require_master(cluster.workspace, "to read secrets")
    find_keyring(cluster, master)
    return keys, row, transaction.opened(keys, master, row)


def edit(cluster: Cluster, name: str, edited: Callable[[str, bytes], bytes]) -> tuple[str, ...]:
    """Let ``edited(name, plaintext)`` change the secret ``name``; returns the files written, none if it is the same.

    What is derived from it (certificate, public key in peers.json) is renewed with it. Raises UsageError on an
    unknown name and SmallkubeError on content that is not what this secret must hold; nothing is changed then.
    """
    keys, row, before = _open(cluster, name)
    require_host_keys(cluster.workspace, load_keyring(cluster), (row,))
    after = edited(row.name, before)
    if after == before:
        return ()
    kinds.validate(row.kind, after, f"{row.name} (nothing was changed)")
    public = certificates.issue_all({row: after})
    if row.publishes_key:
        public |= peers.published(cluster, {row: after}).files
    transaction.apply(cluster, Change({row: after}, public=public), keys=keys)
    return (row.file, *public)


def run_editor(command: Sequence[str], folders: Sequence[Path], name: str, plaintext: bytes) -> bytes:
    """Run an editor (argv) on ``plaintext`` in a private folder in the first of ``folders`` that is in memory.

    Returns the text without the BOM and the CRLF of an editor of another system.
    Raises SmallkubeError when the editor fails and UsageError when it is not found.
    """
    with _private_folder(folders) as folder:
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(plaintext)
        try:
            status = process.run_interactive([*command, path])
        except process.NotStarted as error:
            raise UsageError(
                f"the editor {command[0]} {error.message}", hint="set EDITOR to an editor that is installed"
            ) from error
        if status != 0:
            raise SmallkubeError(f"the editor ended with status {status}; nothing was changed")
        if not path.is_file():
            raise SmallkubeError("the editor removed the file; nothing was changed")
        return path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")


@contextmanager
def _private_folder(folders: Sequence[Path]) -> Iterator[Path]:
    base = next((folder for folder in folders if in_memory(folder)), None)
    if base is None:
        raise UsageError(
            "no folder in memory (tmpfs) to edit secrets in", hint="mount /dev/shm, or set XDG_RUNTIME_DIR"
        )
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
    try:
        with process.signals_as_errors("nothing was changed"):
            yield folder
    finally:
        wipe(folder)


def in_memory(folder: Path) -> bool:
    """Whether ``folder`` can be written to and is on tmpfs or ramfs."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return False
    return process.run(["stat", "-f", "-c", "%T", folder], timeout=10).stdout.strip() in ("tmpfs", "ramfs")


def _sweep(base: Path) -> None:
    """Wipe what a killed edit left, and not what a running one uses."""
    for folder in base.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        ours = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        if ours and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            wipe(folder)


def wipe(folder: Path) -> None:
    """Overwrite, then remove: the editor's own backup files too."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(OSError), path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
    shutil.rmtree(folder, ignore_errors=True)
