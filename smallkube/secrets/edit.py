"""Editing one secret: in a private folder in memory, re-encrypted only when it changed and is still valid."""

import datetime
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.process import NotStarted, run_interactive, signals_as_errors
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, certificates, change, kinds, peers, store
from smallkube.secrets.change import Contents
from smallkube.secrets.keyring import Keyring, demand, load_hosts, read_recipient, require_master
from smallkube.secrets.policy import Kind, Secret

_PREFIX = "smallkube-edit-"


def edit(cluster: Cluster, name: str, edited: Callable[[str, bytes], bytes]) -> tuple[str, ...]:
    """Let ``edited(name, plaintext)`` change the secret ``name``; returns the files written, none if it is the same.

    What is derived from it (certificate, public key in peers.json) is renewed with it. Raises UsageError on an
    unknown name and SmallkubeError on content that is not what this secret must hold; nothing is changed then.
    """
    row = store.find(cluster, name)
    path = cluster.workspace.keys_dir / row.file
    master = require_master(cluster.workspace, "to edit secrets")
    keyring = Keyring(read_recipient(cluster.workspace, master) or master.recipient, load_hosts(cluster))
    demand(cluster.workspace, keyring, (row,))
    before = age.decrypt(path.read_bytes(), master, cluster.workspace.relative(path))
    after = edited(row.name, before)
    if after == before:
        return ()
    kinds.validate(row.kind, after, f"{row.name} (nothing was changed)")
    return _save(cluster, row, after)


def _save(cluster: Cluster, row: Secret, plaintext: bytes) -> tuple[str, ...]:
    clear: dict[str, bytes | None] = {}
    if row.certificate:
        clear[row.certificate.file] = certificates.issue(
            row.certificate, plaintext, datetime.datetime.now(datetime.UTC)
        )
    if row.kind is Kind.WIREGUARD and not row.version:
        public = {cluster.inventory.node(row.node).index: kinds.wireguard_public(plaintext, row.file)}
        found = peers.updated(peers.read(cluster.workspace), cluster.inventory, public)
        if found.words:
            clear[cluster.workspace.peers_file.name] = found.text.encode()
    change.apply(cluster, Contents({row: plaintext}, {}, clear=clear))
    return (row.file, *clear)


def run_editor(command: Sequence[str], folders: Sequence[Path], name: str, plaintext: bytes) -> bytes:
    """Run an editor (argv) on ``plaintext`` in a private folder in the first of ``folders`` that is in memory.

    Raises SmallkubeError when the editor fails and UsageError when it is not there.
    """
    with _private_folder(folders) as folder:
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(plaintext)
        try:
            status = run_interactive([*command, path])
        except NotStarted as error:
            raise UsageError(
                f"the editor {command[0]} {error.message}", hint="set EDITOR to an editor that is here"
            ) from error
        if status != 0:
            raise SmallkubeError(f"the editor ended with status {status}; nothing was changed")
        if not path.is_file():
            raise SmallkubeError("the editor removed the file; nothing was changed")
        return path.read_bytes()


@contextmanager
def _private_folder(folders: Sequence[Path]) -> Iterator[Path]:
    base = next((folder for folder in folders if _in_memory(folder)), None)
    if base is None:
        raise UsageError(
            "no folder in memory (tmpfs) to edit secrets in", hint="mount /dev/shm, or set XDG_RUNTIME_DIR"
        )
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
    try:
        with signals_as_errors("nothing was changed"):
            yield folder
    finally:
        _wipe(folder)


def _in_memory(folder: Path) -> bool:
    """Whether ``folder`` is on tmpfs or ramfs, by the mount table (proc(5))."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return False
    kinds = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mounted_on, kind, *_ = line.split(" ")
        kinds[mounted_on] = kind
    real = folder.resolve()
    mounted = next((kinds[str(place)] for place in (real, *real.parents) if str(place) in kinds), "")
    return mounted in ("tmpfs", "ramfs")


def _sweep(base: Path) -> None:
    """Wipe what a killed edit left, and not what a running one uses."""
    for folder in base.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        ours = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        if ours and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            _wipe(folder)


def _wipe(folder: Path) -> None:
    """Overwrite, then remove: the editor's own backup files too."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
    shutil.rmtree(folder, ignore_errors=True)
