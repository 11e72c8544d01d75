"""Verifies that the nodes of a lockstep deploy wait for each other, but never forever, and learn of faults."""

import threading
from concurrent.futures import ThreadPoolExecutor

from smallkube.deploy.activation import Barrier, SyncPoint

NEVER = lambda: False  # noqa: E731


def test_none_continues_before_all_have_arrived() -> None:
    barrier = Barrier(["node1", "node2", "node3"])
    with ThreadPoolExecutor(3) as pool:
        first = [pool.submit(barrier.wait, name, SyncPoint.PREPARED, "", NEVER) for name in ("node1", "node2")]
        assert not any(waiting.done() for waiting in first)
        assert barrier.wait("node3", SyncPoint.PREPARED, "", NEVER) == ""
        assert [waiting.result(timeout=10) for waiting in first] == ["", ""]


def test_a_fault_of_one_reaches_all_others() -> None:
    barrier = Barrier(["node1", "node2"])
    with ThreadPoolExecutor(2) as pool:
        healthy = pool.submit(barrier.wait, "node1", SyncPoint.CHECKED, "", NEVER)
        failed = pool.submit(barrier.wait, "node2", SyncPoint.CHECKED, "no tunnel", NEVER)
        assert healthy.result(timeout=10) == "lockstep deploy aborted: node2 failed"
        assert failed.result(timeout=10) == ""


def test_one_that_leaves_is_not_waited_for_and_its_fault_counts() -> None:
    barrier = Barrier(["node1", "node2", "node3"])
    barrier.leave("node2")
    barrier.leave("node3", "the build failed")
    assert barrier.wait("node1", SyncPoint.PREPARED, "", NEVER) == "lockstep deploy aborted: node3 failed"


def test_waiting_ends_when_it_is_too_late() -> None:
    late = threading.Event()
    late.set()
    assert Barrier(["node1", "node2"]).wait("node1", SyncPoint.ACTIVATED, "", late.is_set) == (
        "node2 did not get this far in time"
    )
