"""A snapshot that is being received, and signals that come while the threads for it are started or waited for."""

import hashlib
import json
import threading
from pathlib import Path

import pyrage
import pytest
import zstandard

from smallkube.core.errors import SmallkubeError
from smallkube.etcd.backup import SnapshotReceiver


@pytest.fixture
def receiver(tmp_path: Path) -> SnapshotReceiver:
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    return SnapshotReceiver("node1", tmp_path / "snapshot", (recipient,), None)


def snapshot() -> bytes:
    """What the primary sends."""
    database = bytes(512)
    digest = hashlib.sha256(database).digest()
    facts = {"size": 544, "snapshot_sha256": digest.hex(), "revision": 1, "etcd": "3.6.5"}
    head, end = (json.dumps(each).encode() for each in ({"size": 544}, facts))
    return b"\n".join((head, zstandard.compress(database + digest), end, b""))


def test_a_snapshot_without_its_last_line_is_refused(receiver: SnapshotReceiver, tmp_path: Path) -> None:
    """As the primary sends it when it ends before it has verified the snapshot."""
    receiver.write(snapshot().rpartition(b"\n{")[0])
    with pytest.raises(SmallkubeError, match="node1: unexpected output from snapshot"):
        receiver.end()
    receiver.abandon()
    assert list(tmp_path.iterdir()) == []


def test_the_snapshot_may_come_in_pieces(receiver: SnapshotReceiver) -> None:
    for byte in snapshot():
        receiver.write(bytes([byte]))
    found, stored = receiver.end()
    assert (found.size, found.revision) == (544, 1)
    assert stored.size > 0


def threads_end(others: set[threading.Thread]) -> bool:
    made = set(threading.enumerate()) - others
    for thread in made:
        thread.join(10)
    return not any(thread.is_alive() for thread in made)


@pytest.mark.parametrize("interrupted", [1, 2])
def test_a_receiver_interrupted_at_its_start_leaves_nothing(
    interrupted: int, receiver: SnapshotReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, others, started = threading.Thread.start, set(threading.enumerate()), []

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        if len(started) == interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    # What the frames of the error hold stays open until the program ends.
    with pytest.raises(KeyboardInterrupt) as error:
        receiver.write(snapshot())
    receiver.abandon()
    assert error.traceback and len(started) == interrupted
    assert threads_end(others)
    assert list(tmp_path.iterdir()) == []


def test_a_receiver_interrupted_at_its_end_keeps_no_thread(
    receiver: SnapshotReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when systemd ends a service: our child's end is the fault, and the signal to us comes behind it."""
    others = set(threading.enumerate())
    receiver.write(snapshot()[:-1])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as error:
        patch.setattr(threading.Thread, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        receiver.abandon()
    assert error.traceback
    assert threads_end(others)
