"""What `inv net.bench` asks machines for and shows, with machines in memory."""

import json
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import net
from smallkube.cli.context import Current
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.operations import bench
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from tests.unit.fake_cluster import FakeCluster

Capture = pytest.CaptureFixture[str]
Asked = list[tuple[str, tuple[str, ...]]]


def transfer(count: int | None, seconds: float | None, ms: float | None = 0.5) -> dict[str, Any]:
    return {"milliseconds": ms, "bytes": count, "seconds": seconds, "ticks": 150}


ANSWER = {"tunnel": transfer(500_000_000, 2.0, 0.75), "direct": transfer(1_000_000_000, 2.0)}


@pytest.fixture
def answers() -> dict[str, Any]:
    """Word of the script → what it prints; a text that is an error ends the command with it."""
    return {"measure": ANSWER}


@pytest.fixture
def asked(cluster: FakeCluster, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Node and words of each call of the script."""
    found: Asked = []

    def host(node: Node) -> FakeHost:
        def reply_to(command: Command) -> Result:
            if not command.argv[1].endswith("/bench.sh"):
                return reply()
            word = command.argv[2]
            found.append((node.name, command.argv[2:]))
            said = answers.get(word, "")
            if isinstance(said, SmallkubeError):
                raise said
            failed = isinstance(said, str) and said
            return reply(stderr=said, status=1) if failed else reply(json.dumps(said))

        return FakeHost(node, reply_to)

    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: host(node))
    return found


def measured(capsys: Capture, **flags: Any) -> Any:
    net.bench(Context(), json=True, **flags)
    return json.loads(capsys.readouterr().out)


def test_each_pair_is_measured_in_both_directions(asked: Asked, capsys: Capture) -> None:
    rows = measured(capsys, seconds=2)
    assert [(row["sender"], row["receiver"]) for row in rows] == [("node1", "node2"), ("node2", "node1")]
    assert rows[0]["tunnel"] == {"mbits": 2000.0, "milliseconds": 0.75, "cpu_seconds": 3.22}
    assert rows[0]["direct"] == {"mbits": 4000.0, "milliseconds": 0.5, "cpu_seconds": 1.61}
    assert rows[0]["cost"] == 50.0
    (first, second) = [(node, words) for node, words in asked if words[0] == "measure"]
    assert first[0] == "node2" and first[1][1:3] == ("5201", "2")
    assert first[1][3] == "tunnel=10.88.1.1" and second[1][3] == "tunnel=10.88.2.1"


def test_only_the_other_nodes_may_connect(asked: Asked, cluster: FakeCluster, capsys: Capture) -> None:
    measured(capsys)
    serving = {node: words[3:] for node, words in asked if words[0] == "serve"}
    other = cluster.inventory.node("node2")
    assert serving["node1"] == ("10.88.2.1", other.peer_ip)
    (limit,) = {words[2] for _, words in asked if words[0] == "serve"}
    assert int(limit) == bench.duration(cluster.inventory.nodes, 3) + 60


def test_every_node_stops_whatever_happens(asked: Asked, answers: dict[str, Any]) -> None:
    answers["measure"] = SmallkubeError("connection lost", where="node2")
    with pytest.raises(Exit, match="connection lost"):
        net.bench(Context())
    assert sorted(node for node, words in asked if words == ("stop",)) == ["node1", "node2"]


def test_a_busy_node_is_named_and_the_others_stop(asked: Asked, answers: dict[str, Any]) -> None:
    answers["serve"] = "another net.bench runs here"
    with pytest.raises(Exit, match=r"node1.*another net\.bench runs here"):
        net.bench(Context())
    assert not [words for _, words in asked if words[0] == "measure"]


def test_what_can_not_be_measured_is_a_dash(asked: Asked, answers: dict[str, Any], capsys: Capture) -> None:
    """A node behind an address that is translated can't be reached outside of the tunnel."""
    answers["measure"] = ANSWER | {"direct": transfer(None, None, None)}
    net.bench(Context())
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == ["node1", "node2", "2000", "-", "-", "0.75", "-", "3.22", "-"]


def test_a_tunnel_without_throughput_fails(asked: Asked, answers: dict[str, Any], capsys: Capture) -> None:
    answers["measure"] = ANSWER | {"tunnel": transfer(0, 3.0)}
    with pytest.raises(Exit, match="nothing came through the tunnel: node1 to node2, node2 to node1") as ended:
        net.bench(Context())
    assert ended.value.code == 1 and "node1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer",
    [
        {"tunnel": transfer(1, 1.0)},
        ANSWER | {"direct": transfer(-1, 1.0)},
        ANSWER | {"direct": transfer(1, 1e9)},
        ANSWER | {"tunnel": transfer(1 << 60, 1.0)},
        ANSWER | {"tunnel": {**transfer(1, 1.0), "ticks": "1"}},
    ],
)
def test_unexpected_answers_are_one_line(asked: Asked, answers: dict[str, Any], answer: dict[str, Any]) -> None:
    answers["measure"] = answer
    with pytest.raises(Exit, match="unexpected output from bench"):
        net.bench(Context())


def test_one_node_has_nothing_to_be_measured_with(asked: Asked) -> None:
    with pytest.raises(Exit, match="there is no pair of nodes") as ended:
        net.bench(Context(), node=["node2"])
    assert ended.value.code == 2 and asked == []
