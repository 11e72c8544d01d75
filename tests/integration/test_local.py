"""Proves that what runs on this machine in the place of a node ends with the run that wanted it."""

import threading
from dataclasses import replace

import pytest

from smallkube.etcd.status import SCRIPTS
from smallkube.inventory.models import Node
from smallkube.remote.local import LocalHost

MISSES_ONE_SIGNAL = "trap 'trap - TERM' TERM; echo begun; while :; do sleep 0.1; done"


class NobodyWaits(Exception):
    """What stops a run."""


def stop(_: bytes) -> None:
    raise NobodyWaits


def test_a_program_that_missed_the_signal_is_signalled_again() -> None:
    command = replace(SCRIPTS.sent("cancel-on-disconnect", "/bin/sh", "-c", MISSES_ONE_SIGNAL), hold=True)

    def run() -> None:
        with pytest.raises(NobodyWaits):
            LocalHost(Node(name="node1", index=1, peer_ip="192.0.2.1")).run(command, on_stdout=stop)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(timeout=30)
    assert not running.is_alive()
