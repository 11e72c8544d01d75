"""Whom `inv nodes.reset` resets, what it asks and refuses, with machines in memory."""

import json
import sys
from io import StringIO

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import nodes_removal
from smallkube.cli.context import Current
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command
from tests.unit.fake_cluster import FakeCluster

Capture = pytest.CaptureFixture[str]
ANSWER = {"stopped": ["kubelet.service"], "removed": ["/var/lib/kubelet"], "left": []}


class Machines:
    """The cluster, and the machines outside it, which are reset: node, command."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster, self.reset = cluster, list[tuple[Node, Command]]()
        self.answer: dict[str, list[str]] = dict(ANSWER)
        self.refusal = ""

    def connect(self, node: Node) -> FakeHost:
        def answer(command: Command) -> object:
            if command.name != "reset":
                return self.cluster.connect(node).run(command)
            self.reset.append((node, command))
            return reply(status=1, stderr=self.refusal) if self.refusal else reply(json.dumps(self.answer))

        return FakeHost(node, answer)  # type: ignore[arg-type]


@pytest.fixture
def machines(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Machines:
    made = Machines(cluster)
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: made.connect(node))
    return made


def reset(*nodes: str, **flags: object) -> None:
    nodes_removal.reset(Context(), node=list(nodes), **{"yes": True, **flags})


def test_a_removed_node_is_reached_as_its_flags_say(machines: Machines, capsys: Capture) -> None:
    reset("node3", ssh_host="192.168.0.3", user="admin", port=2222, become="sudo", json=True)
    ((node, command),) = machines.reset
    assert (node.name, node.index, node.ssh.host) == ("node3", 3, "192.168.0.3")
    assert (node.ssh.user, node.ssh.port, node.ssh.become) == ("admin", 2222, "sudo")
    secrets = command.argv[4:]
    assert {"wgkube.key", "node_node3.key", "kube_token_node3", "kubelet_node3.key.new"} <= set(secrets)
    assert not [name for name in secrets if "node1" in name or "issuer" in name]
    out, err = capsys.readouterr()
    assert json.loads(out) == {"node": "node3", **ANSWER}
    assert "keep NixOS and its generations, SSH" in err and "starts the services again" in err


@pytest.mark.parametrize(
    ("nodes", "flags", "reason"),
    [
        ((), {}, "one node at a time; give --node nodeN"),
        (("node2", "node3"), {}, "one node at a time"),
        (("node2",), {}, "node2 is a node of inventory.yaml; remove it first: inv nodes.remove node2; or --force"),
        (("node3",), {}, "node3 is not in inventory.yaml; give the address where it is reached: --ssh-host"),
        (("node3",), {"ssh_host": "192.168.0.2"}, "at 192.168.0.2, port 22, is node2 of inventory.yaml"),
        (("node3",), {"ssh_host": "192.168.0.3", "become": "su"}, "--become su: "),
        (("node2",), {"ssh_host": "192.168.0.3", "force": True}, "inventory.yaml says how node2 is reached"),
        (("web",), {"ssh_host": "192.168.0.3"}, "no node 'web' in the inventory"),
    ],
)
def test_what_is_not_reset(nodes: tuple[str, ...], flags: dict[str, object], reason: str, machines: Machines) -> None:
    with pytest.raises(Exit) as refused:
        reset(*nodes, **flags)
    assert reason in str(refused.value)
    assert (refused.value.code, machines.reset) == (2, [])


def test_a_node_of_the_inventory_is_reset_by_force(machines: Machines) -> None:
    reset("node1", force=True)
    ((node, command),) = machines.reset
    assert (node.name, {"issuer.key", "kube_token_root", "wgkube.key"} <= set(command.argv[4:])) == ("node1", True)


def test_a_node_object_that_is_left_is_refused(machines: Machines) -> None:
    machines.cluster.members["node3"] = "v1.34.2"
    with pytest.raises(Exit, match=r"node3 still has a Node object in the cluster; delete it: inv nodes.remove node3"):
        reset("node3", ssh_host="192.168.0.3")
    assert machines.reset == []
    reset("node3", ssh_host="192.168.0.3", force=True)
    assert len(machines.reset) == 1


def test_a_cluster_that_does_not_answer_is_no_hindrance(machines: Machines, capsys: Capture) -> None:
    machines.cluster.api = "inactive"
    reset("node3", ssh_host="192.168.0.3")
    assert "warning: not known whether node3 still has a Node object: kube-apiserver" in capsys.readouterr().err
    assert len(machines.reset) == 1


@pytest.mark.parametrize(("typed", "done"), [("node3\n", 1), ("y\n", 0), ("node2\n", 0), ("", 0)])
def test_the_name_is_typed(typed: str, done: int, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    if done:
        reset("node3", ssh_host="192.168.0.3", yes=False)
    else:
        with pytest.raises(Exit, match="nothing was changed: not confirmed"):
            reset("node3", ssh_host="192.168.0.3", yes=False)
    assert len(machines.reset) == done


def test_without_a_terminal_it_needs_yes(machines: Machines) -> None:
    with pytest.raises(Exit, match="confirmation required; pass --yes") as refused:
        reset("node3", ssh_host="192.168.0.3", yes=False)
    assert (refused.value.code, machines.reset) == (2, [])


def test_what_is_left_is_a_failure(machines: Machines, capsys: Capture) -> None:
    machines.answer["left"] = ["/var/lib/kubelet: /var/lib/kubelet/x is still mounted"]
    with pytest.raises(Exit, match=r"node3: not everything was removed: /var/lib/kubelet: .*; run the same") as failed:
        reset("node3", ssh_host="192.168.0.3")
    assert failed.value.code == 1
    assert "left: /var/lib/kubelet: " in capsys.readouterr().out


def test_a_machine_that_refuses_is_a_failure(machines: Machines) -> None:
    machines.refusal = "a deploy is not confirmed: smallkube-rollback-1.timer"
    with pytest.raises(Exit, match=r"a deploy is not confirmed: smallkube-rollback-1.timer") as failed:
        reset("node3", ssh_host="192.168.0.3")
    assert failed.value.code == 1


def test_other_answers_are_refused(machines: Machines) -> None:
    machines.answer = {"stopped": []}
    with pytest.raises(Exit, match="unexpected output from reset"):
        reset("node3", ssh_host="192.168.0.3")


def test_an_unreachable_machine_is_one_line(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = machines.connect

    def without(node: Node) -> FakeHost:
        if node.name == "node3":
            raise SmallkubeError("can't be reached", where=node.name)
        return connect(node)

    monkeypatch.setattr(Current, "connect", lambda _, node: without(node))
    with pytest.raises(Exit, match="node3: can't be reached"):
        reset("node3", ssh_host="192.168.0.3")
