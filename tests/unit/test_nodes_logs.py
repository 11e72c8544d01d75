"""What `inv nodes.logs` asks for and shows, with machines in memory."""

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import nodes_logs
from smallkube.cli.context import Current
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import MAX_LINE, Command, Result
from tests.unit.fake_cluster import FakeCluster

Capture = pytest.CaptureFixture[str]
ENTRIES = {
    "node1": "2026-11-27T07:00:01.000001+00:00 node1 kubelet[1]: first\n    more of it\n"
    f"2026-11-27T07:00:03.000001+00:00 node1 kubelet[1]: \x1b[2Jthird{'x' * 1000}\n",
    "node2": "2026-11-27T07:00:02.000001+0000 node2 kubelet[1]: second\n",
}


@pytest.fixture
def asked(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """What the machines were asked."""
    commands: list[Command] = []

    def answer(node: Node) -> FakeHost:
        def reply_to(command: Command) -> Result:
            commands.append(command)
            return reply("" if "--unit=none" in command.argv else ENTRIES[node.name])

        return FakeHost(node, reply_to)

    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: answer(node))
    return commands


def test_lines_of_all_nodes_are_sorted_by_time(asked: list[Command], capsys: Capture) -> None:
    nodes_logs.logs(Context(), unit="kubelet")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:7] for line in lines] == ["node1: ", "node1: ", "node2: ", "node1: "]
    assert [word for line in lines for word in ("first", "more", "second", "third") if word in line] == [
        "first",
        "more",
        "second",
        "third",
    ]
    assert "\x1b" not in lines[-1] and r"\x1b[2Jthird" in lines[-1] and len(lines[-1]) < MAX_LINE + 20
    assert {"--boot", "--lines=100", "--unit=kubelet"} <= set(asked[0].argv)


def test_since_shows_all_lines_of_the_time(asked: list[Command]) -> None:
    nodes_logs.logs(Context(), unit="etcd.service", since="2h")
    assert {"--since=-7200s", "--lines=all", "--unit=etcd.service"} <= set(asked[0].argv)
    assert "--boot" not in asked[0].argv


def test_following_ends_with_the_connection(asked: list[Command], capsys: Capture) -> None:
    nodes_logs.logs(Context(), unit="kubelet", follow=True)
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert all(command.hold and "--follow" in command.argv and "setsid" in command.argv[2] for command in asked)


def test_lost_nodes_are_named_at_once(asked: list[Command], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    connect = Current.connect

    def all_but_one(here: Current, node: Node) -> FakeHost:
        if node.index == 2:
            raise SmallkubeError("can't be reached", where=node.name)
        found = connect(here, node)
        assert isinstance(found, FakeHost)
        return found

    monkeypatch.setattr(Current, "connect", all_but_one)
    with pytest.raises(Exit, match="not followed to the end: node2"):
        nodes_logs.logs(Context(), unit="kubelet", follow=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and err == "warning: node2: can't be reached\n"


def test_nodes_without_entries_are_named(asked: list[Command], capsys: Capture) -> None:
    nodes_logs.logs(Context(), unit="none")
    assert capsys.readouterr() == ("", "node1: no entries of none\nnode2: no entries of none\n")
    assert len(asked) == 2


@pytest.mark.parametrize("unit", ["a b", "x;y", "", "*", "x" * 256, "käse", "--help"])
def test_what_is_no_unit_is_wrong_usage(unit: str, asked: list[Command]) -> None:
    with pytest.raises(Exit, match="is no unit; expected a name") as refused:
        nodes_logs.logs(Context(), unit=unit)
    assert (refused.value.code, asked) == (2, [])
