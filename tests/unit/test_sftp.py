"""What an SFTP server may answer: reading ends, takes bounded memory, and whatever is unexpected is one line."""

import hashlib
import random
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.remote import openssh, sftp
from smallkube.remote.sftp import Destination, Folder

INIT, VERSION, STAT, OPENDIR, READDIR, READ, CLOSE = 1, 2, 17, 11, 12, 5, 4
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
REGULAR = struct.pack(">II", 4, 0o100600)
Answer = Callable[[int, bytes], tuple[int, bytes] | bytes | None]
"""Of a request's type and body: the type and body of the reply, raw bytes, or nothing."""


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def status(code: int, message: bytes = b"") -> tuple[int, bytes]:
    return STATUS, struct.pack(">I", code) + text(message) + text(b"en")


def ordinary(kind: int, _: bytes) -> tuple[int, bytes]:
    replies = {STAT: (ATTRS, REGULAR), OPENDIR: (HANDLE, text(b"h")), 3: (HANDLE, text(b"h"))}
    return replies.get(kind, status(1 if kind in (READ, READDIR) else 0))


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


def serve(wire: socket.socket, answer: Answer, chooser: random.Random | None = None) -> None:
    """Until the client leaves; with a ``chooser`` waiting requests are answered in any order."""
    waiting: list[tuple[int, bytes]] = []
    with suppress(OSError), wire, wire.makefile("rb") as requests:
        while head := requests.read(4):
            body = requests.read(struct.unpack(">I", head)[0])
            waiting.append((body[0], body[1:]))
            if chooser:
                if requests.peek(1) if select.select([wire], [], [], 0.002)[0] else b"":
                    continue
                chooser.shuffle(waiting)
            for kind, rest in waiting:
                reply = answer(kind, rest[4:])
                if kind == INIT and reply == ordinary(INIT, b""):
                    reply = packet(VERSION, struct.pack(">I", 3))
                elif isinstance(reply, tuple):
                    reply = packet(reply[0], rest[:4] + reply[1])
                wire.sendall(reply or b"")
            waiting.clear()


@contextmanager
def folder(answer: Answer, chooser: random.Random | None = None) -> Iterator[Folder]:
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=serve, args=(theirs, answer, chooser))
    server.start()
    original, openssh.sftp = openssh.sftp, lambda *_: openssh.Wire(ours)
    try:
        with sftp.folder(Workspace(Path("/nowhere")), Destination("u", "h", 22, "/d")) as there:
            yield there
    finally:
        openssh.sftp = original
        ours.close()
        server.join()


def use(there: Folder, source: Path) -> None:
    there.sizes()
    there.read("b1.json", 1000)
    there.write("b1.age", source)


def only(kind: int, reply: tuple[int, bytes] | bytes | None) -> Answer:
    return lambda asked, body: reply if asked == kind else ordinary(asked, body)


ENTRY = text(b"x" * 50_000) + text(b"") + struct.pack(">I", 0)
ODD: dict[str, tuple[Answer, str]] = {
    "endless listing": (only(READDIR, (NAME, struct.pack(">I", 10) + ENTRY * 10)), "more than was asked for"),
    "a listing of nothing": (only(READDIR, (NAME, struct.pack(">I", 1 << 31))), "a file without a name"),
    "packets that belong to nothing": (only(READDIR, bytes(4) * (1 << 17)), "more than was asked for"),
    "a packet of 4 GiB": (only(STAT, b"\xff" * 9), "Garbage packet"),
    "a packet of 15 MiB": (only(STAT, struct.pack(">I", 15 << 20) + bytes(15 << 20)), "more than was asked for"),
    "attributes without end": (
        only(READDIR, (NAME, struct.pack(">I", 9) + text(b"x") + text(b"") + struct.pack(">II", 1 << 31, 1 << 31))),
        "a file without a name",
    ),
    "noise of a shell": (only(INIT, b"Welcome to this server\r\n"), "Garbage packet"),
    "no version": (only(INIT, packet(VERSION, b"")), "unexpected answer"),
    "another kind of reply": (only(STAT, (NAME, b"")), "expected attributes"),
    "a fault in Latin-1": (only(OPENDIR, status(4, b"Zugriff verf\xe4llt")), "unexpected answer"),
    "nothing": (only(READ, None), "no answer for"),
    "the end": (only(OPENDIR, status(1)), "no SSH connection"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_unexpected_answer_is_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_SILENT_SECONDS", 0.3 if kind == "nothing" else 20)
    (tmp_path / "source").write_bytes(b"x")
    answer, reason = ODD[kind]
    with pytest.raises(SmallkubeError, match=r"sftp://u@h/d: ") as caught, folder(answer) as there:
        use(there, tmp_path / "source")
    assert reason in str(caught.value)


def test_a_fault_of_this_machine_is_not_the_servers(tmp_path: Path) -> None:
    with pytest.raises(SmallkubeError) as caught, folder(ordinary) as there:
        there.write("b1.age", tmp_path / "missing")
    assert str(caught.value).startswith(f"{tmp_path}/missing: can't be used: No such file")


@pytest.mark.parametrize("reported", [0, 1 << 62])
def test_an_endless_file_is_read_to_its_limit(reported: int, tmp_path: Path) -> None:
    def answer(kind: int, body: bytes) -> tuple[int, bytes]:
        if kind in (STAT, 8):
            return ATTRS, struct.pack(">IQI", 5, reported, 0o100600)
        return (DATA, text(bytes(40_000))) if kind == READ else ordinary(kind, body)

    (tmp_path / "source").write_bytes(bytes(100_000))
    with folder(answer) as there:
        assert there.read("b1.json", 100_000) == bytes(100_000)
        assert there.write("b1.age", tmp_path / "source") == hashlib.sha256(bytes(100_001)).hexdigest()


@given(st.binary(max_size=200), st.sampled_from([INIT, STAT, OPENDIR, READDIR, 3, READ, CLOSE]), st.booleans())
def test_any_bytes_end_in_one_line_or_well(data: bytes, kind: int, as_body: bool) -> None:
    reply = (data[0], data[1:]) if as_body and data else data
    original, sftp._SILENT_SECONDS = sftp._SILENT_SECONDS, 0.02  # type: ignore[assignment]
    try:
        with folder(only(kind, reply)) as there:
            use(there, Path(__file__))
    except SmallkubeError as error:
        assert str(error).isprintable()
    finally:
        sftp._SILENT_SECONDS = original


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 100), st.integers())
def test_short_answers_in_any_order_are_the_file(data: bytes, chunk: int, most: int, seed: int) -> None:
    chooser = random.Random(seed)

    def answer(kind: int, body: bytes) -> tuple[int, bytes]:
        if kind != READ:
            return ordinary(kind, body)
        offset, length = struct.unpack(">QI", body[5:])
        found = data[offset : offset + min(length, chooser.randint(1, most))]
        return (DATA, text(found)) if found else status(1)

    original, sftp._CHUNK = sftp._CHUNK, chunk
    try:
        with folder(answer, chooser) as there:
            assert there.read("x", 400) == data
            assert there.read("x", 100) == data[:100]
    finally:
        sftp._CHUNK = original
