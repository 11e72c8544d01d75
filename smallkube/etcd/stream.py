"""The contents of a backup as streams, never whole in memory: verified, encrypted to the administrators, decrypted.

A backup is an etcd snapshot (a bbolt database with its SHA-256 at the end), compressed by zstd, encrypted by age.
"""

import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from smallkube.core.errors import SmallkubeError
from smallkube.secrets import age
from smallkube.secrets.header import Header, parse_header

HASH_SIZE = 32
PAGE = 512
"""What a bbolt file's size is a multiple of; etcd appends its hash to that (etcdctl snapshot save)."""
FILE_MODE = 0o600
_HEADER_LIMIT = 1 << 16
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Digest:
    """Size in bytes and SHA-256 in hex: of an encrypted file, or of a snapshot as etcd appended it."""

    size: int
    sha256: str


class Pipe:
    """Runs ``work`` in a thread on the stream that is written here, and is never ahead of it by more than a pipe holds.

    What ``work`` raises is raised by ``write`` or ``end``. The owner keeps it before ``start``, and closes it whatever
    comes. The thread is a daemon: a signal may come while it is being closed.
    """

    def __init__(self, work: Callable[[BinaryIO], Digest]) -> None:
        reading, writing = os.pipe()
        self._sink = open(writing, "wb", buffering=0)  # noqa: PTH123, SIM115 - a descriptor, which ``close`` closes
        self._result: Future[Digest] = Future()

        def run() -> None:
            try:
                with open(reading, "rb", buffering=0) as stream:  # noqa: PTH123
                    self._result.set_result(work(stream))
            except BaseException as error:
                self._result.set_exception(error)

        self._thread = threading.Thread(target=run, daemon=True)

    def start(self) -> None:
        """Let the work begin."""
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Hand ``data`` over; waits while the work is behind."""
        try:
            _write_all(self._sink, data)
        except BrokenPipeError:
            self.end()
            raise

    def close(self) -> None:
        """The stream ends here."""
        self._sink.close()

    def end(self) -> Digest:
        """Close the stream and wait for the result."""
        self.close()
        return self._result.result()

    def join(self) -> None:
        """Wait until nothing works on the stream, which is closed; the result does not matter."""
        if self._thread.is_alive():
            self._thread.join()


def verify_snapshot(
    stream: BinaryIO, where: str, then: Callable[[bytes], object] = lambda _: None, most: float = math.inf
) -> Digest:
    """Decompress ``stream`` and compare the snapshot in it with the hash at its end; ``then`` is given all of it.

    Raises SmallkubeError that names ``where``, also as soon as there are more than ``most`` bytes.
    """
    import zstandard

    digest, tail, size = hashlib.sha256(), b"", 0
    reader = zstandard.ZstdDecompressor().stream_reader(stream, read_size=_CHUNK)
    try:
        while data := reader.read(_CHUNK):
            size += len(data)
            if size > most:
                raise SmallkubeError(f"damaged: it has more than {most} bytes", where=where)
            digest.update(tail[: max(0, len(tail) + len(data) - HASH_SIZE)])
            digest.update(memoryview(data)[:-HASH_SIZE])
            tail = (tail + data[-HASH_SIZE:])[-HASH_SIZE:]
            then(data)
    except zstandard.ZstdError as error:
        raise SmallkubeError(f"damaged: {error}", where=where) from error
    if size % PAGE != HASH_SIZE or digest.digest() != tail:
        raise SmallkubeError(f"damaged: {size} bytes that don't match the hash etcd appended", where=where)
    return Digest(size, tail.hex())


def encrypt(stream: BinaryIO, path: Path, recipients: Sequence[str]) -> Digest:
    """Encrypt ``stream`` to ``recipients`` into the new file ``path``, durably.

    Raises SmallkubeError when it can't be written or reads back differently; the caller then removes the file.
    pyrage's ``encrypt_io`` (1.4) does not report that its last write failed: therefore the length is compared, too.
    """
    from pyrage import EncryptError

    source, where = _Meter(stream), str(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(handle, "wb", buffering=0) as file:
            sink = _Meter(file)
            try:
                age.encrypt_stream(source, sink, recipients)
            except EncryptError as error:
                raise sink.fault or SmallkubeError(f"can't be encrypted: {error}", where=where) from error
            if sink.fault:
                raise sink.fault
            os.fsync(file.fileno())
        written = Digest(sink.size, sink.digest.hexdigest())
        if read_header(path).plaintext_length != source.size or hash_file(path) != written.sha256:
            raise SmallkubeError("the file differs from what was written: check the disk", where=where)
    except OSError as error:
        raise SmallkubeError(f"can't be written: {error.strerror or error}", where=where) from error
    return written


@contextmanager
def decrypted(path: Path, master: age.Master) -> Iterator[BinaryIO]:
    """The compressed snapshot in ``path`` as a stream while the block runs.

    Raises SmallkubeError before the block when it is no age file, and at its end when it can't be decrypted to its end:
    until then, nothing read is verified.
    """
    header = read_header(path)
    reading, writing = os.pipe()

    def decrypt() -> None:
        with path.open("rb") as source, open(writing, "wb") as sink:  # noqa: PTH123
            age.decrypt_stream(source, sink, master, header, str(path))

    with ThreadPoolExecutor(1) as pool, open(reading, "rb") as stream:  # noqa: PTH123
        result = pool.submit(decrypt)
        yield stream
        while stream.read(_CHUNK):
            pass
    result.result()


def verify_backup(
    path: Path, master: age.Master, then: Callable[[bytes], object] = lambda _: None, most: float = math.inf
) -> Digest:
    """``verify_snapshot`` of the one in ``path``; raises SmallkubeError."""
    with decrypted(path, master) as stream:
        try:
            return verify_snapshot(stream, str(path), then, most)
        except SmallkubeError as error:
            damage = error  # raised last: that the file can't be decrypted explains more
    raise damage


def read_header(path: Path) -> Header:
    """The age header of a backup; raises SmallkubeError when it is not a whole age file."""
    try:
        with path.open("rb") as file:
            return parse_header(file.read(_HEADER_LIMIT), str(path), path.stat().st_size)
    except OSError as error:
        raise SmallkubeError(f"can't be read: {error.strerror}", where=str(path)) from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Meter:
    """What pyrage reads from or writes to: counts and hashes what passes, and keeps the fault of a write."""

    def __init__(self, stream: BinaryIO | FileIO) -> None:
        self.size, self.digest = 0, hashlib.sha256()
        self.fault: OSError | None = None
        self._stream = stream

    def read(self, most: int = -1) -> bytes:
        data = self._stream.read(most)
        self.size += len(data)
        return data

    def write(self, data: bytes) -> int:
        try:
            _write_all(self._stream, data)
        except OSError as error:
            self.fault = error
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered here."""


def _write_all(stream: BinaryIO | FileIO, data: bytes) -> None:
    """A raw stream may write less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
