"""Proves the order of nodes, that each keeps its failure to itself, and what an interruption does."""

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import ErrorGroup, SmallkubeError
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.fleet import NodeOutcome, Report
from smallkube.remote.host import Host
from tests.unit.world import Silent


def node(index: int) -> Node:
    return Node(name=f"node{index}", index=index, peer_ip=f"192.168.0.{index}")


NODES = tuple(node(index) for index in range(1, 6))


def names(stages: tuple[tuple[Node, ...], ...]) -> list[list[int]]:
    return [[each.index for each in stage] for stage in stages]


@pytest.mark.parametrize(
    ("nodes", "batch", "expected"),
    [
        (NODES, None, [[1], [2, 3, 4, 5]]),
        (NODES, 3, [[1], [2, 3, 4], [5]]),
        (NODES, 1, [[1], [2], [3], [4], [5]]),
        (NODES[1:], 2, [[2, 3], [4, 5]]),
        (NODES[:1], None, [[1]]),
        ((), None, []),
    ],
)
def test_the_primary_goes_first_then_workers_in_batches(
    nodes: tuple[Node, ...], batch: int | None, expected: list[list[int]]
) -> None:
    assert names(fleet.stages(nodes, batch)) == expected


@given(st.sets(st.integers(1, 254), max_size=40), st.none() | st.integers(1, 50))
def test_every_node_is_in_exactly_one_stage(indices: set[int], batch: int | None) -> None:
    staged = names(fleet.stages([node(index) for index in sorted(indices)], batch))
    assert sorted(index for stage in staged for index in stage) == sorted(indices)
    assert all(len(stage) <= (batch or 254) for stage in staged)
    assert all(stage == [1] for stage in staged if 1 in stage)


def test_a_failure_stays_with_its_node() -> None:
    def ask(host: Host) -> int:
        if host.node.index in (2, 4):
            raise SmallkubeError("broken", where=host.node.name)
        return host.node.index

    outcomes = fleet.ask(NODES, lambda each: FakeHost(each, lambda _: reply()), ask)
    assert [outcome.node for outcome in outcomes] == list(NODES)
    assert [outcome.value for outcome in outcomes] == [1, None, 3, None, 5]
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False, True]
    with pytest.raises(ErrorGroup) as caught:
        fleet.raise_errors(outcomes)
    assert str(caught.value).splitlines() == ["node2: broken", "node4: broken"]


def test_the_nodes_of_a_stage_run_at_the_same_time() -> None:
    together = threading.Barrier(len(NODES), timeout=30)
    fleet.parallel(NODES, lambda _: together.wait())


class Crowd:
    """``most``: how many calls of it ran at the same time."""

    def __init__(self) -> None:
        self.lock, self.running, self.most = threading.Lock(), 0, 0

    def __call__(self, _: object) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.001)
        with self.lock:
            self.running -= 1


def test_no_more_than_the_limit_run_at_the_same_time() -> None:
    many, crowd = [node(index) for index in range(1, 101)], Crowd()
    assert len(fleet.parallel(many, crowd)) == 100
    assert crowd.most <= fleet.MAX_PARALLEL


def test_all_are_connected_to_at_once_and_asked_in_turns() -> None:
    many = [node(index) for index in range(1, 101)]
    connecting, crowd = threading.Barrier(len(many), timeout=30), Crowd()

    def connect(each: Node) -> Host:
        connecting.wait()
        return FakeHost(each, lambda _: reply())

    assert fleet.unanswered(fleet.ask(many, connect, crowd)) == {}
    assert crowd.most <= fleet.MAX_PARALLEL


def test_a_fault_of_our_own_is_raised_once_the_others_have_ended() -> None:
    ended: list[str] = []

    def work(each: Node) -> None:
        if each.index == 1:
            raise ZeroDivisionError
        ended.append(each.name)

    with pytest.raises(ZeroDivisionError):
        fleet.parallel(NODES, work)
    assert len(ended) == 4


def test_ctrl_c_stops_the_work_and_keeps_the_outcomes() -> None:
    stop = threading.Event()

    def work(each: Node) -> Report:
        if each.index == 1:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(30)
        return Report(each.name, NodeOutcome.FAILED, reason="stopped")

    reports = fleet.report(fleet.stages(NODES), work, Silent(), stop, kind=Report, max_failures=5)
    assert [each.reason for each in reports] == ["stopped", *["interrupted"] * 4]
    assert [each.outcome for each in reports[1:]] == [NodeOutcome.NOT_RUN] * 4


def test_ctrl_c_that_another_thread_is_given_stops_the_work() -> None:
    """As when the kernel chose that thread while this one did not take the signal yet."""
    stop, before = threading.Event(), signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    ended, taking = threading.Event(), threading.Event()

    def take() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        taking.set()
        ended.wait(30)

    other = threading.Thread(target=take)
    other.start()
    assert taking.wait(30) and other.ident

    def waits() -> bool:
        main = threading.main_thread()
        state = Path(f"/proc/self/task/{main.native_id}/stat").read_text().split()[2]
        return state == "S" and sys._current_frames()[main.ident or 0].f_code.co_name == "wait"

    def work(_: Node) -> str:
        while not waits():
            pass
        signal.pthread_kill(other.ident or 0, signal.SIGINT)
        return "stopped" if stop.wait(10) else "not stopped"

    try:
        (outcome,) = fleet.parallel(NODES[:1], work, stop)
    finally:
        ended.set()
        other.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert outcome == "stopped"


def test_ctrl_c_twice_is_raised_at_once() -> None:
    stop, never = threading.Event(), threading.Event()

    def work(_: Node) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        stop.wait(30)
        os.kill(os.getpid(), signal.SIGINT)
        never.wait(30)

    with pytest.raises(KeyboardInterrupt):
        fleet.parallel(NODES[:1], work, stop)
    never.set()


def test_ctrl_c_where_nothing_can_be_stopped_is_raised_at_once() -> None:
    never = threading.Event()

    def work(_: Node) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        never.wait(30)

    with pytest.raises(KeyboardInterrupt):
        fleet.parallel(NODES[:1], work)
    never.set()


def test_each_node_is_reported_and_a_failure_ends_it() -> None:
    def work(each: Node) -> Report:
        if each.index == 2:
            raise OSError(errno.ENOSPC, "No space left")
        return Report(each.name, NodeOutcome.DRAINED)

    staged, stop = [[each] for each in NODES[:3]], threading.Event()
    reports = fleet.report(staged, work, Silent(), stop, kind=Report)
    assert [each.outcome for each in reports] == [NodeOutcome.DRAINED, NodeOutcome.FAILED, NodeOutcome.NOT_RUN]
    assert [one.reason for one in reports] == ["", "can't be used: No space left; make room", "an earlier node failed"]
    tolerant = fleet.report(staged, work, Silent(), stop, kind=Report, max_failures=1)
    assert [each.good for each in tolerant] == [True, False, True]
