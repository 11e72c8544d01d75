"""The one tree that Nix sees: deterministic, content-addressed, and without anything that must stay here.

The same content gives the same digest whatever the order, times, owners or modes of the files on disk.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError, listed
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import policy, transaction

_CLEAR_KEY = re.compile(rb"AGE-SECRET-KEY-1[A-Z0-9]|-----BEGIN [A-Z ]*PRIVATE KEY-----")
MAX_FILE_BYTES = 5_000_000


@dataclass(frozen=True)
class Bundle:
    """Relative POSIX path → content, in the order of the paths."""

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over paths and contents, 64 hexadecimal digits."""
        whole = hashlib.sha256()
        for name, content in self.files.items():
            whole.update(f"{name}\0{len(content)}\0".encode())
            whole.update(content)
        return whole.hexdigest()

    @cached_property
    def archive(self) -> bytes:
        """The files as an uncompressed tar: owner root, mode 0644, time 0."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in self.files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        return out.getvalue()


def assemble(cluster: Cluster) -> Bundle:
    """What Nix sees of the workspace.

    Raises UsageError when something of it is missing, is a link that leads out of its folder, is far too large, or
    holds a private key in clear.
    """
    transaction.refuse_unfinished(cluster.workspace)
    return Bundle({name: _content(path, name) for name, path in sorted(dict(_files(cluster)).items())})


def write_tree(files: Mapping[str, bytes], folder: Path) -> None:
    """Write ``files`` (relative path → content) under the new ``folder``, which only this user can read.

    For reading them once: nothing is made durable. Raises SmallkubeError when that fails, ``folder`` exists, or a path
    would lead out of it.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
        for relative, content in files.items():
            path = folder / relative
            if not path.resolve().is_relative_to(folder.resolve()):
                raise SmallkubeError("leads out of the tree", where=relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror}", where=str(folder)) from error


def _files(cluster: Cluster) -> Iterator[tuple[str, Path]]:
    workspace = cluster.workspace
    if not workspace.flake_file.is_file() or not workspace.rendered_dir.is_dir():
        raise UsageError("nothing is rendered", where=str(workspace.nix_dir), hint="run `inv nix.render`")
    yield "nix/flake.nix", workspace.flake_file
    if workspace.flake_lock.is_file():
        yield "nix/flake.lock", workspace.flake_lock
    for folder in (*map(workspace.nix_sources, ("modules", "addons")), workspace.hosts_dir, workspace.rendered_dir):
        for path in _tree(folder):
            yield f"nix/{folder.name}/{path.relative_to(folder).as_posix()}", path
    for addon in cluster.inventory.cluster.addons:
        yield addon, _inside(workspace.root / addon, workspace.root.resolve())
    existing = frozenset(path.name for path in workspace.keys_dir.glob("*.*"))
    names = [secret.file for secret in policy.expected(cluster.inventory, existing) if secret.in_use]
    names += [*policy.public_files(cluster.inventory, existing), workspace.peers_file.name]
    keys = {f"keys/{name}": workspace.keys_dir / name for name in names}
    if missing := [path.name for path in keys.values() if not path.is_file()]:
        where = str(workspace.keys_dir)
        raise UsageError(f"missing: {listed(missing, 3)}", where=where, hint="run `inv keys.generate`")
    yield from keys.items()


def _tree(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.is_symlink() and path.is_dir():
            raise UsageError("a link to a folder, which is not followed", where=str(path), hint="put the files there")
        if path.is_file() or path.is_symlink():
            yield _inside(path, root)


def _inside(path: Path, root: Path) -> Path:
    if not path.resolve().is_relative_to(root):
        raise UsageError("a link that leads out of its folder", where=str(path), hint="put the file itself there")
    return path


def _content(path: Path, name: str) -> bytes:
    if not name.isprintable():
        raise UsageError("a file name that is not UTF-8, or holds control characters", where=repr(name))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"larger than {MAX_FILE_BYTES:,} bytes", where=str(path), hint="keep it out of nix/")
    if _CLEAR_KEY.search(content):
        problem = "holds a private key in clear, which would be readable by everyone in the Nix store"
        raise UsageError(problem, where=name, hint="encrypt it (inv keys.edit) or take it out")
    return content
