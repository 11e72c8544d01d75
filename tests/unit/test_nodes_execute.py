"""Proves what `inv nodes.exec` makes of answers: words, lines, JSON, and one fault a node."""

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Node
from smallkube.operations import machines
from smallkube.remote import fleet
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result

NODES = tuple(Node(name=f"node{index}", index=index, peer_ip=f"192.168.0.{index}") for index in (1, 2, 3))


def connect(node: Node) -> FakeHost:
    """node1 succeeds, node2 fails, node3 is not there."""

    def answer(command: Command) -> Result:
        assert command.argv == ("uptime",)
        return reply("up\nand running\n") if node.index == 1 else reply(status=3, stderr="broken\n")

    if node.index == 3:
        raise SmallkubeError("can't be reached", where=node.name)
    return FakeHost(node, answer)


def test_every_node_has_its_own_outcome() -> None:
    wanted = machines.command(["uptime"], root=True, timeout=5)
    outcomes = fleet.ask(NODES, connect, lambda host: host.run(wanted))
    assert [str(fault) for fault in machines.faults(outcomes)] == ["node2: exit status 3", "node3: can't be reached"]
    answers = [machines.as_json(outcome) for outcome in outcomes]
    assert [(answer["outcome"], answer["status"]) for answer in answers] == [
        ("ok", 0),
        ("failed", 3),
        ("unknown", None),
    ]
    assert answers[0]["stdout"] == "up\nand running\n"
    assert answers[2]["reason"] == "node3: can't be reached"


def test_lines_carry_the_name() -> None:
    assert list(machines.lines("node2", "a\n\nb  c\n")) == ["node2: a", "node2: ", "node2: b  c"]
    assert list(machines.lines("node2", "")) == []


def test_no_command_can_not_be_run() -> None:
    with pytest.raises(UsageError):
        machines.command((), root=True, timeout=5)


def test_words_stay_words_and_root_is_a_choice() -> None:
    wanted = machines.command(["echo", "a  b", "$HOME; rm"], root=True, timeout=5)
    assert wanted.script("sudo") == b"exec sudo -n -- env LC_ALL=C echo 'a  b' '$HOME; rm'"
    assert machines.command(["id"], root=False, timeout=5).script("sudo") == b"exec id"
