"""Files on a machine that is not one of the nodes, by SFTP; only host keys that are known already are accepted."""

import errno
import hashlib
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, Self, cast
from urllib.parse import unquote, urlsplit

import paramiko
from paramiko.sftp import (
    CMD_ATTRS,
    CMD_CLOSE,
    CMD_DATA,
    CMD_OPENDIR,
    CMD_READ,
    CMD_READDIR,
    CMD_STAT,
    CMD_WRITE,
    SFTPError,
    int64,
)
from paramiko.sftp_attr import SFTPAttributes

from smallkube.core.errors import SmallkubeError, UsageError, of_os
from smallkube.core.workspace import Workspace
from smallkube.remote import openssh

_CHUNK = 1 << 15
_AT_ONCE = 64
"""Requests for chunks under way: what bounds the memory that copying takes."""
_ANSWER_LIMIT = 1 << 20
_LISTING_LIMIT = 64 << 20
"""Bytes of answers besides those of a file: some hundred thousand names."""
_EACH = 1000
_SILENT_SECONDS = 120
_EXTENDED_LIMIT = 100
FILE_MODE = 0o600
PART = ".part"
"""What the name of an incomplete file ends with."""


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
    """Over a socket instead of a channel, whose name paramiko's own logging asks for.

    ``left``: how many bytes the server may still answer, each packet counting as more.
    """

    left = _ANSWER_LIMIT
    # Of paramiko, and not in its stubs.
    _request: Callable[..., tuple[int, Any]]
    _async_request: Callable[..., int]
    _convert_status: Callable[[paramiko.Message], None]
    _read_response: Callable[[], object]

    def _log(self, level: object, msg: object, *args: object) -> None:
        pass

    def _read_all(self, n: int) -> bytes:
        self.left -= n + _EACH
        if self.left < 0:
            raise SFTPError("more than was asked for")
        data = bytearray()
        while len(data) < n:
            piece = self.sock.recv(n - len(data))
            if not piece:
                raise EOFError("closed by the server")
            data += piece
        return bytes(data)

    def sizes(self, path: str) -> Iterator[tuple[str, int]]:
        """Name and size in bytes of what is in a folder. Names need not be UTF-8."""
        _, reply = self._request(CMD_OPENDIR, path)
        handle = reply.get_binary()
        with suppress(EOFError):
            while True:
                _, reply = self._request(CMD_READDIR, handle)
                for _ in range(reply.get_int()):
                    name, _ = reply.get_binary().decode(errors="surrogateescape"), reply.get_binary()
                    if not name:
                        raise SFTPError("a file without a name")
                    yield name, _attributes(reply)[0]
        self._request(CMD_CLOSE, handle)

    def mode(self, path: str) -> int:
        """Type and mode of a file as stat(2) has them, 0 when the server does not say."""
        kind, reply = self._request(CMD_STAT, path)
        if kind != CMD_ATTRS:
            raise SFTPError("expected attributes")
        return _attributes(reply)[1]


def _attributes(reply: paramiko.Message) -> tuple[int, int]:
    """Size and mode; paramiko's own reader takes any number of extended attributes from an empty rest."""
    flags = reply.get_int()
    size = reply.get_int64() if flags & SFTPAttributes.FLAG_SIZE else 0
    reply.get_bytes(8 if flags & SFTPAttributes.FLAG_UIDGID else 0)
    mode = reply.get_int() if flags & SFTPAttributes.FLAG_PERMISSIONS else 0
    reply.get_bytes(8 if flags & SFTPAttributes.FLAG_AMTIME else 0)
    extended = reply.get_int() if flags & SFTPAttributes.FLAG_EXTENDED else 0
    for _ in range(min(2 * extended, _EXTENDED_LIMIT)):
        reply.get_binary()
    return size, mode


class _Pipeline:
    """Many requests for one file under way. Answers may come in any order, and data in smaller pieces."""

    def __init__(self, client: _Client, file: paramiko.SFTPFile) -> None:
        self._client, self._handle, self._answers = client, file.handle, dict[int, bytes]()

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        with suppress(EOFError):
            self._answers[number] = b""
            if kind != CMD_DATA:
                self._client._convert_status(message)
            else:
                self._answers[number] = message.get_string()

    def _ask(self, command: int, offset: int, what: int | bytes) -> int:
        return self._client._async_request(self, command, self._handle, int64(offset), what)

    def _answer(self, number: int) -> bytes:
        while number not in self._answers:
            self._client._read_response()
        return self._answers.pop(number)

    def write(self, source: IO[bytes]) -> None:
        """All of ``source``."""
        waiting: deque[int] = deque()
        offset = 0
        while data := source.read(_CHUNK):
            waiting.append(self._ask(CMD_WRITE, offset, data))
            offset += len(data)
            if len(waiting) == _AT_ONCE:
                self._answer(waiting.popleft())
        for number in waiting:
            self._answer(number)

    def read(self, size: int) -> Iterator[bytes]:
        """The first ``size`` bytes of the file, or all of a shorter one."""
        waiting: deque[tuple[int, int, int]] = deque()
        asked = 0
        while asked < size or waiting:
            while asked < size and len(waiting) < _AT_ONCE:
                length = min(_CHUNK, size - asked)
                waiting.append((self._ask(CMD_READ, asked, length), asked, length))
                asked += length
            number, offset, length = waiting.popleft()
            data = self._answer(number)[:length]
            if not data:
                return
            yield data
            if left := length - len(data):
                offset += len(data)
                waiting.appendleft((self._ask(CMD_READ, offset, left), offset, left))


class Folder:
    """The destination's folder, made when it is not there. Raises OSError, SFTPError and paramiko.SSHException."""

    def __init__(self, client: _Client, path: str) -> None:
        self._client, self._path = client, path
        self._make(path)

    def sizes(self) -> dict[str, int]:
        """Each file's size in bytes."""
        self._client.left = _LISTING_LIMIT
        return {name: size for name, size in self._client.sizes(self._path) if name not in (".", "..")}

    def read(self, name: str, most: int) -> bytes:
        """The beginning of a file, at most so many bytes; none of what is not a regular file."""
        self._client.left = 2 * most + _ANSWER_LIMIT
        if not S_ISREG(self._client.mode(self._at(name))):
            return b""
        with self._client.open(self._at(name), "rb") as file:
            return b"".join(_Pipeline(self._client, file).read(most))

    def write(self, name: str, source: Path, mark: str = "") -> str:
        """Copy ``source``, read it back, and give it its name last; the SHA-256 of what is there then.

        Until then it is called NAME + ``mark`` + PART.
        """
        part, size = self._at(name + mark + PART), source.stat().st_size
        self._client.left = 3 * size + _ANSWER_LIMIT
        try:
            with source.open("rb") as local, self._client.open(part, "wb") as remote:
                with suppress(OSError):  # not every server or file system has modes
                    remote.chmod(FILE_MODE)
                _Pipeline(self._client, remote).write(local)
            digest = hashlib.sha256()
            with self._client.open(part, "rb") as remote:
                for data in _Pipeline(self._client, remote).read(size + 1):
                    digest.update(data)
            self._rename(part, name)
        except OSError:
            with suppress(OSError, EOFError, paramiko.SSHException):
                self._client.remove(part)
            raise
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        self._client.left = _ANSWER_LIMIT
        self._client.remove(self._at(name))

    def _rename(self, part: str, name: str) -> None:
        """Over an existing file only where the server can do that at once."""
        try:
            self._client.posix_rename(part, self._at(name))
        except OSError:
            try:
                self._client.rename(part, self._at(name))
            except OSError as error:
                if name not in self.sizes():
                    raise
                raise OSError(errno.EEXIST, f"{name} is there, and can't be replaced by SFTP: remove it") from error

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _make(self, path: str) -> None:
        try:
            self._client.mode(path)
        except FileNotFoundError:
            if parent := path.rpartition("/")[0]:
                self._make(parent)
            self._client.mkdir(path, 0o700)


@contextmanager
def folder(workspace: Workspace, destination: Destination) -> Iterator[Folder]:
    """The destination while the block runs; every fault of the connection or of a file is a SmallkubeError."""
    where = str(destination)
    own_key, known = workspace.state_dir / "ssh_key", workspace.keys_dir / "known_hosts"
    options = ["-o", f'GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts "{known}"']  # quoted: see ssh_config(5)
    if own_key.is_file():
        options += ["-o", "IdentitiesOnly=yes", "-i", str(own_key)]
    try:
        wire = openssh.sftp(destination.user, destination.host, destination.port, *options)
    except OSError as error:
        raise UsageError("ssh is not installed", where=where, hint="apt-get install openssh-client") from error
    try:
        wire.socket.settimeout(_SILENT_SECONDS)
        yield Folder(_Client(cast(paramiko.Channel, wire.socket)), destination.path)
    except (paramiko.SSHException, EOFError, ConnectionError) as error:
        hint = "if its host key is not known: compare it, then add it to keys/known_hosts or ~/.ssh/known_hosts"
        raise SmallkubeError(f"no SSH connection: {wire.reason or error}", where=where, hint=hint) from error
    except TimeoutError as error:
        raise SmallkubeError(f"no answer for {_SILENT_SECONDS} s", where=where) from error
    except (SFTPError, struct.error, UnicodeDecodeError) as error:
        raise SmallkubeError(f"unexpected answer from its SFTP server: {error}", where=where) from error
    except OSError as error:
        raise of_os(error, where=error.filename or where) from error
    finally:
        wire.close()
