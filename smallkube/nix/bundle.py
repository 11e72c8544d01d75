"""The one tree that Nix sees: deterministic, content-addressed, and without anything that must stay here.

The same content gives the same digest whatever the order, times, owners or modes of the files on disk.
"""

import codecs
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError, listed
from smallkube.inventory.cluster import Cluster

_CLEAR_KEY = re.compile(
    rb"""AGE-SECRET-KEY-(?:PQ-)?1[A-Z0-9] | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----
    | (?:private|preshared)_?key["']?[ \t]*[:=][ \t\n]*["']*[A-Za-z0-9+/]{43}=""",
    re.VERBOSE | re.IGNORECASE,
)
"""Of age, PEM and WireGuard."""
_WG_GENKEY = re.compile(rb"\s*[A-Za-z0-9+/]{43}=\s*")
"""The whole content of a file that `wg genkey` wrote."""
_SECRET = re.compile(rb"""^[ \t-]*["']?kind["']?:[ \t]*["']?Secret\b""", re.MULTILINE)
INTENDED = b"smallkube: not secret"
"""A comment that says so, on the line of what looks like a secret or on the line before."""
_DATA = ("data", "stringData")
_NO_BOM = (".nix", ".json", ".crt")
"""Of files that Nix, OpenSSL and Go read, which take a BOM for an error."""
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
        import tarfile

        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in self.files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        return out.getvalue()


def assemble(cluster: Cluster) -> Bundle:
    """What Nix sees of the workspace.

    Raises UsageError when something of it is missing, is a link that leads out of its folder, or is far too
    large, ErrorGroup when it holds private keys or Secrets in clear.
    """
    from smallkube.secrets import transaction

    transaction.refuse_unfinished(cluster.workspace)
    bundle = Bundle({name: _content(path, name) for name, path in sorted(dict(_files(cluster)).items())})
    if found := [problem for name, content in bundle.files.items() for problem in _secrets(name, content)]:
        raise ErrorGroup(found)
    return bundle


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
    for addon in cluster.inventory.cluster.addon_files:
        yield addon, _inside(workspace.root / addon, workspace.root.resolve())
    from smallkube.secrets import people, policy

    existing = frozenset(path.name for path in workspace.keys_dir.glob("*.*"))
    names = [secret.file for secret in policy.expected(cluster.inventory, existing) if secret.in_use]
    names += [*policy.public_files(cluster.inventory, existing), workspace.peers_file.name]
    names += [person.certificate for person in people.accepted(workspace)]
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
    return content.removeprefix(codecs.BOM_UTF8) if path.suffix in _NO_BOM else content


def _secrets(name: str, content: bytes) -> Iterator[UsageError]:
    """What is in clear in a file and would be readable by everyone in the Nix store."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell's > writes it
        content = content.decode("utf-16", errors="replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.splitlines()
    found = {content.count(b"\n", 0, key.start()): "a private key" for key in _CLEAR_KEY.finditer(content)}
    if _WG_GENKEY.fullmatch(content) and "pub" not in name:
        found[0] = "a private key"
    if b"Secret" in content and not name.endswith(".nix"):
        found |= dict.fromkeys(_secret_objects(content), "a Secret with data")
    for line, what in sorted(found.items()):
        if not any(INTENDED in each for each in lines[max(line - 1, 0) : line + 1]):
            hint = f"take it out, or write the comment “# {INTENDED.decode()}” on the line before"
            problem = f"{what} in clear, which would be readable by everyone in the Nix store"
            yield UsageError(problem, where=f"{name}:{line + 1}", hint=hint)


def _secret_objects(content: bytes) -> Iterator[int]:
    """The line (from 0) of the kind of each Secret with data, also in Lists; in what is no YAML: that looks like it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for document in yaml.compose_all(content, Loader=loader):
            top = _fields(document)
            listed = top["items"].value if isinstance(top.get("items"), yaml.SequenceNode) else []
            for fields in (top, *map(_fields, listed)):
                kind = fields.get("kind")
                if kind and kind.value == "Secret" and any(map(_fields, map(fields.get, _DATA))):
                    yield kind.start_mark.line
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        yield from (content.count(b"\n", 0, look.end()) for look in _SECRET.finditer(content))


def _fields(node: yaml.Node | None) -> dict[Any, yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}
