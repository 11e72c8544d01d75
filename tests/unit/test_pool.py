"""Proves that a connection is lent again only while it lives, to one borrower at a time, and closed in the end."""

import threading

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.remote import fleet, pool
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.pool import Pool

ONE, TWO = (Node(name=f"node{index}", index=index, peer_ip=f"192.0.2.{index}") for index in (1, 2))


class Counted(FakeHost):
    """``open`` and ``closed`` are counted; one that is ``dead`` does not answer."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, lambda _: reply())
        self.opened = self.closed = 0
        self.dead = False

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def answers(self) -> bool:
        return not self.dead


class Made:
    """The connections that were made."""

    def __init__(self) -> None:
        self.hosts: list[Counted] = []
        self.pool = Pool(self.make)

    def make(self, node: Node) -> Counted:
        self.hosts.append(Counted(node))
        return self.hosts[-1]

    def counts(self) -> list[tuple[int, int]]:
        return [(host.opened, host.closed) for host in self.hosts]


@pytest.fixture
def made() -> Made:
    return Made()


def test_the_next_question_goes_over_the_same_connection(made: Made) -> None:
    with made.pool:
        for _ in range(3):
            with made.pool.connect(ONE) as host:
                assert host is made.hosts[0]
        with made.pool.connect(TWO) as other:
            assert other is made.hosts[1]
        assert made.counts() == [(1, 0), (1, 0)]
    assert made.counts() == [(1, 1), (1, 1)]


def test_two_borrowers_have_one_each(made: Made) -> None:
    with made.pool.connect(ONE) as first, made.pool.connect(ONE) as second:
        assert first is not second
    both = threading.Barrier(2, timeout=30)
    assert fleet.unanswered(fleet.ask([ONE, ONE], made.pool.connect, lambda _: both.wait())) == {}
    assert made.counts() == [(1, 0), (1, 0)]


def test_one_that_broke_or_is_dead_is_not_lent_again(made: Made) -> None:
    with pytest.raises(SmallkubeError), made.pool.connect(ONE):
        raise SmallkubeError("connection lost")
    with made.pool.connect(ONE):
        pass
    made.hosts[1].dead = True
    with made.pool.connect(ONE) as host:
        assert host is made.hosts[2]
    assert made.counts() == [(1, 1), (1, 1), (1, 0)]


def test_a_new_one_is_new_and_takes_the_others_place(made: Made) -> None:
    with made.pool.connect(ONE):
        pass
    with made.pool.connect_anew(ONE) as host:
        assert host is made.hosts[1]
    with made.pool.connect(ONE) as again:
        assert again is host
    assert made.counts() == [(1, 1), (1, 0)]


def test_what_is_lent_at_the_end_is_closed_when_it_comes_back(made: Made) -> None:
    with made.pool.connect(ONE):
        made.pool.close()
        assert made.counts() == [(1, 0)]
    assert made.counts() == [(1, 1)]


def test_no_more_than_so_many_wait(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT", 1)
    for node in (ONE, TWO):
        with made.pool.connect(node):
            pass
    assert made.counts() == [(1, 0), (1, 1)]
