"""Proves that machines that change together wait for each other, hear of each other's faults, and never for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

from smallkube.deploy.barrier import Barrier, SyncPoint
from smallkube.deploy.stale_peers import Survey, compare

PATIENT = lambda: False  # noqa: E731


def test_nobody_goes_on_before_all_are_there() -> None:
    group = Barrier(["node1", "node2", "node3"])
    with ThreadPoolExecutor(3) as pool:
        first = [pool.submit(group.wait, name, SyncPoint.PREPARED, "", PATIENT) for name in ("node1", "node2")]
        assert not any(waiting.done() for waiting in first)
        assert group.wait("node3", SyncPoint.PREPARED, "", PATIENT) == ""
        assert [waiting.result(timeout=10) for waiting in first] == ["", ""]


def test_a_complaint_of_one_reaches_all_others() -> None:
    group = Barrier(["node1", "node2"])
    with ThreadPoolExecutor(2) as pool:
        well = pool.submit(group.wait, "node1", SyncPoint.JUDGED, "", PATIENT)
        ill = pool.submit(group.wait, "node2", SyncPoint.JUDGED, "no tunnel", PATIENT)
        assert well.result(timeout=10) == "all change together, and node2 did not"
        assert ill.result(timeout=10) == ""


def test_one_that_leaves_is_not_waited_for_and_its_reason_counts() -> None:
    group = Barrier(["node1", "node2", "node3"])
    group.leave("node2")
    group.leave("node3", "the build failed")
    assert group.wait("node1", SyncPoint.PREPARED, "", PATIENT) == "all change together, and node3 did not"


def test_waiting_ends_when_it_is_too_late() -> None:
    late = threading.Event()
    late.set()
    assert Barrier(["node1", "node2"]).wait("node1", SyncPoint.ACTIVATED, "", late.is_set) == (
        "node2 did not get this far in time"
    )


def test_the_survey_names_who_has_an_older_peers_file() -> None:
    assert compare({"node1": "new", "node2": ""}, {"node3": ""}, "new") == Survey()
    found = compare({"node1": "old", "node3": ""}, {"node2": "old", "node4": "new"}, "new")
    assert found == Survey(changed=("node1",), left_out=("node2",))
