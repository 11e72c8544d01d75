"""A snapshot that is being received, and a signal that comes while the threads for it are started."""

import hashlib
import json
import threading
from pathlib import Path

import pyrage
import pytest
import zstandard

from smallkube.etcd.backup import SnapshotReceiver


@pytest.mark.parametrize("interrupted", [1, 2])
def test_an_interrupted_receiver_leaves_no_thread_and_no_file(
    interrupted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    database = bytes(512)
    digest = hashlib.sha256(database).digest()
    head = {"size": 544, "sha256": digest.hex(), "revision": 1, "etcd": "3.6.5", "kubernetes": "", "prefixes": None}
    data = json.dumps(head | {"encryption_keys": [], "alarms": []}).encode() + b"\n"
    data += zstandard.compress(database + digest)
    start, started = threading.Thread.start, []

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        if len(started) == interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    receiver = SnapshotReceiver("node1", tmp_path / "snapshot", recipient, None)
    # What the frames of the error hold stays open until the program ends.
    with pytest.raises(KeyboardInterrupt) as error:
        receiver.write(data)
    receiver.abandon()
    assert error.traceback
    for thread in started:
        thread.join(10)
    assert [thread.is_alive() for thread in started] == [False] * interrupted
    assert list(tmp_path.iterdir()) == []
