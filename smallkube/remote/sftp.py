"""Files on a machine that is not one of the nodes, by SFTP; only host keys that are known already are accepted."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit

import paramiko

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.remote.ssh import CONNECT_SECONDS, RefuseUnknown, UnknownHostKeyError, reason, transport

_CHUNK = 1 << 15
_AT_ONCE = 64
"""Requests for chunks under way when reading: what bounds the memory that reading takes."""
_SILENCE_SECONDS = 60
FILE_MODE = 0o600


@dataclass(frozen=True)
class Destination:
    """A folder at ``sftp://USER@HOST[:PORT]/PATH``."""

    user: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises UsageError when a part is missing, and for a password, which does not belong into an inventory."""
        where = "cluster.backup.copy_to"
        try:
            parts = urlsplit(url)
            port = parts.port or 22
        except ValueError as error:
            raise UsageError(f"{url}: {error}", where=where) from error
        if parts.password is not None:
            raise UsageError("a password in the address; use an SSH key", where=where)
        if not (parts.scheme == "sftp" and parts.username and parts.hostname and parts.path.strip("/")):
            raise UsageError(f"{url}: expected sftp://USER@HOST[:PORT]/PATH", where=where)
        return cls(unquote(parts.username), parts.hostname, port, unquote(parts.path).rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == 22 else f":{self.port}"
        return f"sftp://{self.user}@{host}{port}{self.path}"


class Folder:
    """The destination's folder, made when it is not there. Raises OSError and paramiko.SSHException."""

    def __init__(self, client: paramiko.SFTPClient, path: str) -> None:
        self._client, self._path = client, path
        self._make(path)

    def sizes(self) -> dict[str, int]:
        """Each file's size in bytes."""
        return {entry.filename: entry.st_size or 0 for entry in self._client.listdir_attr(self._path)}

    def read(self, name: str) -> bytes:
        """A small file's content."""
        with self._client.open(self._at(name), "rb") as file:
            return file.read()

    def write(self, name: str, source: Path) -> str:
        """Copy ``source``, read it back, and give it its name last; the SHA-256 of what is there then."""
        part = self._at(name + ".part")
        with source.open("rb") as local, self._client.open(part, "wb") as remote:
            remote.chmod(FILE_MODE)
            remote.set_pipelined(True)
            shutil.copyfileobj(local, remote, _CHUNK)
        with self._client.open(part, "rb") as remote:
            remote.prefetch(max_concurrent_requests=_AT_ONCE)
            found = hashlib.file_digest(remote, "sha256").hexdigest()
        self._client.posix_rename(part, self._at(name))
        return found

    def remove(self, name: str) -> None:
        self._client.remove(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _make(self, path: str) -> None:
        try:
            self._client.stat(path)
        except FileNotFoundError:
            if parent := path.rpartition("/")[0]:
                self._make(parent)
            self._client.mkdir(path, 0o700)


@contextmanager
def folder(workspace: Workspace, destination: Destination) -> Iterator[Folder]:
    """The destination while the block runs; every fault of the connection or of a file is a SmallkubeError."""
    where, own_key = str(destination), workspace.state_dir / "ssh_key"
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(RefuseUnknown())
    try:
        for known in (Path("~/.ssh/known_hosts").expanduser(), workspace.keys_dir / "known_hosts"):
            if known.is_file():
                client.load_system_host_keys(str(known))
        client.connect(
            destination.host,
            destination.port,
            destination.user,
            key_filename=str(own_key) if own_key.is_file() else None,
            timeout=CONNECT_SECONDS,
            banner_timeout=CONNECT_SECONDS,
            auth_timeout=CONNECT_SECONDS,
            transport_factory=cast(Any, transport),  # its type differs between versions
        )
        files = client.open_sftp()
        files.get_channel().settimeout(_SILENCE_SECONDS)  # type: ignore[union-attr]
        yield Folder(files, destination.path)
    except paramiko.BadHostKeyException as error:
        raise SmallkubeError("its host key is not the known one; nothing was sent", where=where) from error
    except UnknownHostKeyError as error:
        hint = "compare its host key, then add it to keys/known_hosts or ~/.ssh/known_hosts"
        raise SmallkubeError("its host key is not known; nothing was sent", where=where, hint=hint) from error
    except paramiko.SSHException as error:
        raise SmallkubeError(f"no SSH connection: {reason(error)}", where=where) from error
    except (OSError, EOFError) as error:
        raise SmallkubeError(f"can't be used: {reason(error)}", where=where) from error
    finally:
        client.close()
