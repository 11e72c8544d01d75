"""Proves what `inv nodes.exec` makes of answers: words, lines, JSON, and one fault a node."""

import sys

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import nodes
from smallkube.cli.context import Current
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.operations import machines
from smallkube.remote import fleet
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from tests.unit.fake_cluster import FakeCluster

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
    outcomes = fleet.ask(NODES, connect, lambda host: host.run(Command(("uptime",))))
    assert [str(fault) for fault in machines.faults(outcomes)] == ["node2: exit status 3", "node3: can't be reached"]
    answers = [machines.as_json(outcome) for outcome in outcomes]
    assert [(answer["outcome"], answer["status"]) for answer in answers] == [
        ("ok", 0),
        ("failed", 3),
        ("unknown", None),
    ]
    assert answers[0]["stdout"] == "up\nand running\n"
    assert answers[2]["reason"] == "node3: can't be reached"


def execute(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, *argv: str) -> list[Command]:
    """What `inv nodes.exec` sends to each of two nodes."""
    sent: list[Command] = []

    def answer(command: Command) -> Result:
        sent.append(command)
        return reply("a\n\nb  c\n", stderr="d\n")

    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(sys, "argv", ["inv", "nodes.exec", *argv])
    monkeypatch.setattr(Current, "connect", lambda _, node: FakeHost(node, answer))
    nodes.exec_(Context(), root=False, timeout=5)
    return sent


def test_words_stay_words_and_lines_carry_the_name(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = execute(cluster, monkeypatch, "--", "echo", "a  b", "$HOME; rm")
    assert first.script("sudo") == second.script("sudo") == b"exec echo 'a  b' '$HOME; rm'"
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == ["node1: a", "node1: ", "node1: b  c"]
    assert err.splitlines() == ["node1: d", "node2: d"]


def test_no_command_can_not_be_run(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exit, match="no command given; put it after two dashes") as refused:
        execute(cluster, monkeypatch)
    assert refused.value.code == 2
