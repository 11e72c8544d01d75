"""Verifies which nodes a deploy drains and uncordons, with a fake cluster."""

import threading

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.drain import Drain
from smallkube.kube import members
from tests.unit.world import World

HOST = "node2.k8s.internal"
RESTARTS = "would restart the following units: kubelet.service"


@pytest.fixture
def world() -> World:
    made = World()
    made.join()
    return made


def drain(world: World) -> Drain:
    return Drain(world.inventory, world.inventory.node("node2"), world.connect, threading.BoundedSemaphore(1))


def begin(begun: Drain, activation: str = RESTARTS) -> str:
    reason = begun.needless(activation)
    if not reason:
        begun.begin("nonce", 300, lambda: False)
    return reason


def test_a_member_is_uncordoned_afterwards(world: World) -> None:
    begun = drain(world)
    assert begin(begun) == ""
    assert world.members[HOST].cordoned
    begun.end()
    assert world.done[-2:] == [f"uncordon {HOST}", f"{HOST} {members.MARK}-"]


def test_a_node_cordoned_by_an_operator_stays_cordoned(world: World) -> None:
    world.members[HOST].cordoned = True
    begun = drain(world)
    assert begin(begun) == ""
    begun.end()
    assert world.done == [f"drain {HOST}"]
    assert world.members[HOST].cordoned


def test_a_node_cordoned_by_a_killed_deploy_is_uncordoned(world: World) -> None:
    world.members[HOST].cordoned = world.members[HOST].marked = True
    begun = drain(world)
    begin(begun)
    begun.end()
    assert not world.members[HOST].cordoned


@pytest.mark.parametrize("cordoned", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_what_a_killed_deploy_cordoned_needs_no_drain(world: World, cordoned: bool, marked: bool) -> None:
    """The next deploy restarts nothing, or finds the node unchanged; a cordon of the administrator stays."""
    world.members[HOST].cordoned, world.members[HOST].marked = cordoned, marked
    begun = drain(world)
    begin(begun, "")
    begun.end()
    begun.end_interrupted()
    assert (world.members[HOST].cordoned, world.members[HOST].marked) == (cordoned and not marked, False)
    assert bool(world.done) == marked


def test_an_api_server_that_is_down_ends_no_deploy(world: World) -> None:
    world.members[HOST].cordoned = world.members[HOST].marked = True
    world.api = "inactive"
    drain(world).end_interrupted()
    assert world.done == []


def test_a_node_that_cannot_be_drained_is_uncordoned(world: World) -> None:
    world.drain_error = "error: a budget forbids it\n"
    begun = drain(world)
    with pytest.raises(SmallkubeError, match="a budget forbids it"):
        begin(begun)
    begun.end()
    assert not world.members[HOST].cordoned


@pytest.mark.parametrize(("activation", "reason"), [
    ("would restart the following units: sshd.service", "no unit that pods depend on restarts"),
    ("", "no unit that pods depend on restarts"),
])  # fmt: skip
def test_nothing_is_drained_without_need(activation: str, reason: str, world: World) -> None:
    begun = drain(world)
    assert begin(begun, activation) == reason
    begun.end()
    assert world.done == []
