"""The contents of a backup on their way: checked, sealed for the master, opened again; never whole in memory.

A backup is an etcd snapshot (a bbolt database with its SHA-256 at the end), compressed by zstd, encrypted by age.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from smallkube.core.errors import SmallkubeError
from smallkube.secrets import age
from smallkube.secrets.header import Header, parse_beginning

HASH_SIZE = 32
PAGE = 512
"""What a bbolt file's size is a multiple of; etcd appends its hash to that (etcdctl snapshot save)."""
FILE_MODE = 0o600
_HEADER_MOST = 1 << 16
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Checked:
    """A snapshot that is what etcd hashed: its size in bytes, and that hash in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Sealed:
    """An encrypted file: its size in bytes, its SHA-256 in hex."""

    size: int
    sha256: str


def check(stream: BinaryIO, where: str, then: Callable[[bytes], object] = lambda _: None) -> Checked:
    """Decompress ``stream`` and compare the snapshot in it with the hash at its end; ``then`` is given all of it.

    Raises SmallkubeError that names ``where``.
    """
    import zstandard

    digest, tail, size = hashlib.sha256(), b"", 0
    reader = zstandard.ZstdDecompressor().stream_reader(stream)
    try:
        while data := reader.read(_CHUNK):
            size += len(data)
            held = tail + data
            digest.update(memoryview(held)[:-HASH_SIZE])
            tail = held[-HASH_SIZE:]
            then(data)
    except zstandard.ZstdError as error:
        raise SmallkubeError(f"damaged: {error}", where=where) from error
    if size % PAGE != HASH_SIZE or digest.digest() != tail:
        raise SmallkubeError(f"damaged: {size} bytes that don't match the hash etcd appended", where=where)
    return Checked(size, tail.hex())


def seal(stream: BinaryIO, path: Path, recipient: str) -> Sealed:
    """Encrypt ``stream`` to ``recipient`` (``age1…``) into the new file ``path``, durably.

    Raises SmallkubeError, and leaves no file, when it can't be written or is not afterwards what was written.
    pyrage's ``encrypt_io`` (1.4) does not say when its last write failed: therefore the length is compared, too.
    """
    from pyrage import EncryptError, encrypt_io

    source, where = _Counted(stream), str(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(handle, "wb", buffering=0) as file:
            sink = _Hashing(file)
            try:
                encrypt_io(source, sink, [age.recipient(recipient)])
            except EncryptError as error:
                raise sink.fault or SmallkubeError(f"can't be encrypted: {error}", where=where) from error
            if sink.fault:
                raise sink.fault
            os.fsync(file.fileno())
        sealed = Sealed(sink.size, sink.digest.hexdigest())
        if plaintext_length(path) != source.size or hash_file(path) != sealed.sha256:
            raise SmallkubeError("what was written is not what is there: is the disk sound?", where=where)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SmallkubeError(f"can't be written: {error.strerror or error}", where=where) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return sealed


@contextmanager
def opened(path: Path, master: age.Master) -> Iterator[BinaryIO]:
    """What is sealed in ``path`` (compressed), as a stream while the block runs.

    Raises SmallkubeError before the block when it is no age file, and at its end when it can't be decrypted to its end:
    until then, nothing read is proven.
    """
    from pyrage import DecryptError, decrypt_io

    header = _header(path)
    reading, writing = os.pipe()

    def decrypt() -> None:
        with path.open("rb") as source, open(writing, "wb") as sink:  # noqa: PTH123 - a descriptor, not a path
            decrypt_io(source, sink, list(master.identities))

    with ThreadPoolExecutor(1) as pool, open(reading, "rb") as stream:  # noqa: PTH123
        decrypted = pool.submit(decrypt)
        yield stream
        while stream.read(_CHUNK):
            pass
    try:
        decrypted.result()
    except (DecryptError, OSError) as error:
        raise age.refusal(header, master, str(path)) from error


def check_sealed(path: Path, master: age.Master, then: Callable[[bytes], object] = lambda _: None) -> Checked:
    """``check`` of what is sealed in ``path``; raises SmallkubeError."""
    with opened(path, master) as stream:
        checked: Checked | SmallkubeError
        try:
            checked = check(stream, str(path), then)
        except SmallkubeError as error:
            checked = error  # a fault of the file itself explains more, and is found at the end of the stream
    if isinstance(checked, SmallkubeError):
        raise checked
    return checked


def plaintext_length(path: Path) -> int:
    """How many bytes are sealed in ``path``; raises SmallkubeError when it is not a whole age file."""
    return _header(path).plaintext_length


def _header(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            return parse_beginning(file.read(_HEADER_MOST), path.stat().st_size, str(path))
    except OSError as error:
        raise SmallkubeError(f"can't be read: {error.strerror}", where=str(path)) from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Counted:
    """What pyrage reads from."""

    def __init__(self, stream: BinaryIO) -> None:
        self.size = 0
        self._stream = stream

    def read(self, most: int = -1) -> bytes:
        data = self._stream.read(most)
        self.size += len(data)
        return data


class _Hashing:
    """What pyrage writes to."""

    def __init__(self, file: FileIO) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.fault: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.fault = error
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered here."""
