"""Files on a machine that is not one of the nodes, by SFTP; only host keys that are known already are accepted."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Self, cast
from urllib.parse import unquote, urlsplit

import paramiko

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.remote import openssh

_CHUNK = 1 << 15
_AT_ONCE = 64
"""Requests for chunks under way when reading: what bounds the memory that reading takes."""
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


class _Client(paramiko.SFTPClient):
    """Over a socket instead of a channel, whose name paramiko's own logging asks for."""

    def _log(self, level: object, msg: object, *args: object) -> None:
        pass


class Folder:
    """The destination's folder, made when it is not there. Raises OSError and paramiko.SSHException."""

    def __init__(self, client: paramiko.SFTPClient, path: str) -> None:
        self._client, self._path = client, path
        self._make(path)

    def sizes(self) -> dict[str, int]:
        """Each file's size in bytes."""
        return {entry.filename: entry.st_size or 0 for entry in self._client.listdir_attr(self._path)}

    def read(self, name: str, most: int) -> bytes:
        """The beginning of a file, at most so many bytes; none of what is not a regular file."""
        if not S_ISREG(self._client.stat(self._at(name)).st_mode or 0):
            return b""
        with self._client.open(self._at(name), "rb") as file:
            return file.read(most)

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
    where = str(destination)
    own_key, known = workspace.state_dir / "ssh_key", workspace.keys_dir / "known_hosts"
    options = ["-o", f"GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts {_quoted(known)}"]
    if own_key.is_file():
        options += ["-o", "IdentitiesOnly=yes", "-i", str(own_key)]
    try:
        wire = openssh.sftp(destination.user, destination.host, destination.port, *options)
    except OSError as error:
        raise UsageError("ssh is not installed", where=where, hint="apt-get install openssh-client") from error
    try:
        yield Folder(_Client(cast(paramiko.Channel, wire.socket)), destination.path)
    except (paramiko.SSHException, EOFError, ConnectionError) as error:
        hint = "if its host key is not known: compare it, then add it to keys/known_hosts or ~/.ssh/known_hosts"
        raise SmallkubeError(f"no SSH connection: {wire.reason or error}", where=where, hint=hint) from error
    except OSError as error:
        raise SmallkubeError(f"can't be used: {error.strerror or error}", where=where) from error
    finally:
        wire.close()


def _quoted(path: Path) -> str:
    """A path in a list of paths (ssh_config(5): white space separates, double quotes enclose)."""
    return f'"{path}"'
