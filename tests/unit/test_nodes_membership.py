"""Removing a node leads to what else it needs, and a node that is added again shares no key with the earlier one."""

import json
import re
from collections.abc import Callable

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import nodes, nodes_removal
from smallkube.cli.context import Current
from smallkube.inventory.cluster import Cluster
from smallkube.operations import revoke
from smallkube.secrets import generate, peers, transaction
from smallkube.secrets.transaction import changing_keys
from tests.unit.fake_cluster import FakeCluster

Capture = pytest.CaptureFixture[str]
FORGET = "remove node2 from inventory.yaml"
DELETE = "delete the Node object of node2 and the pods that are left on it"


@pytest.fixture
def inv(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: cluster.connect(node))
    cluster.admits = True
    return cluster


def remove() -> None:
    nodes_removal.remove(Context(), name="node2", yes=True)


def leave_inventory(cluster: FakeCluster) -> Cluster:
    remove()
    return cluster.cluster


def generated(cluster: FakeCluster) -> None:
    with changing_keys(cluster.workspace):
        generate.act(cluster.cluster, generate.plan(cluster.cluster))


def steps(capsys: Capture, name: str = "node2") -> list[str]:
    capsys.readouterr()
    nodes_removal.remove(Context(), name=name, dry_run=True, json=True)
    found: list[str] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("down", "joined", "api", "expected"),
    [
        (False, True, "active", ["drain node2", FORGET, DELETE]),
        (True, True, "active", [FORGET, f"{DELETE}: node2 is not Ready, so they are not waited for"]),
        (False, False, "active", [FORGET]),
        (False, True, "inactive", [FORGET]),
    ],
)
def test_steps_of_a_removal(
    down: bool, joined: bool, api: str, expected: list[str], inv: FakeCluster, capsys: Capture
) -> None:
    inv.api, inv.down = api, {"node2"} if down else set()
    if not joined:
        del inv.members["node2"]
    before = inv.workspace.inventory_file.read_text()
    assert steps(capsys) == expected
    assert (inv.drained, inv.workspace.inventory_file.read_text()) == ([], before)


def test_a_member_is_drained_removed_and_deleted(inv: FakeCluster, capsys: Capture) -> None:
    remove()
    assert (inv.drained, [*inv.members], len(inv.inventory.nodes)) == (["node2"], ["node1"], 1)
    said = capsys.readouterr().err
    assert "inv nodes.reset --node node2 --ssh-host 192.168.0.2, or shut it down" in said
    with pytest.raises(Exit, match="no node 'node2' in the inventory"):
        remove()


def test_nothing_is_removed_that_cannot_be_drained(inv: FakeCluster) -> None:
    before, inv.stuck = inv.workspace.inventory_file.read_text(), "error: a budget forbids it"
    hint = "run the same command again, or inv nodes.uncordon --node node2"
    with pytest.raises(Exit, match=f"node2 is cordoned, but can't be drained: a budget forbids it; {hint}") as failed:
        remove()
    assert (failed.value.code, "node2" in inv.members) == (1, True)
    assert inv.workspace.inventory_file.read_text() == before
    inv.stuck = ""
    remove()
    assert [*inv.members] == ["node1"]


@pytest.mark.parametrize(("api", "off"), [("inactive", False), ("active", True)])
def test_a_removal_resumes_once_the_api_server_runs(api: str, off: bool, inv: FakeCluster, capsys: Capture) -> None:
    inv.api, inv.off = api, {"node1"} if off else set()
    remove()
    said = capsys.readouterr().err
    assert "not known whether node2 is a member of the cluster: " in said
    assert "once the API server runs: inv nodes.remove node2, which deletes its Node object if there is one" in said
    assert ([node.name for node in inv.inventory.nodes], inv.drained) == (["node1"], [])
    with pytest.raises(Exit, match="no node 'node2' in the inventory"):
        remove()
    inv.api, inv.off = "active", set()
    assert steps(capsys) == [DELETE]
    remove()
    assert [*inv.members] == ["node1"]
    assert "--ssh-host ADDRESS" in capsys.readouterr().err


def test_the_primary_and_unknown_names_are_refused(inv: FakeCluster) -> None:
    for name, reason in {"node1": "primary", "node9": "no node 'node9'", "web": "no node 'web'"}.items():
        with pytest.raises(Exit, match=reason) as refused:
            nodes_removal.remove(Context(), name=name, yes=True)
        assert refused.value.code == 2
    assert len(inv.inventory.nodes) == 2


def rotate_token(cluster: FakeCluster) -> None:
    """A rotation that was begun."""
    row = next(row for row in revoke.make(cluster.cluster, "node2").own if row.user)
    with changing_keys(cluster.workspace):
        transaction.apply(cluster.cluster, transaction.Change(moved={row.old: row}))


@pytest.mark.parametrize("before", [lambda _: None, rotate_token])
@pytest.mark.parametrize("between", [lambda _: None, generated])
def test_a_node_added_again_gets_new_keys(
    before: Callable[[FakeCluster], None], between: Callable[[FakeCluster], None], inv: FakeCluster
) -> None:
    before(inv)
    names = re.compile(r"node2|wgkube2")
    old = {name: data for name, data in {**inv.keys.files, **inv.keys.certificates}.items() if names.search(name)}
    public = peers.public_keys(peers.read(inv.workspace))
    leave_inventory(inv)
    between(inv)
    nodes.add(Context(), name="node2", peer_ip="192.168.0.2")
    assert not [name for name in inv.keys.files if names.search(name)]
    generated(inv)
    new = {**inv.keys.files, **inv.keys.certificates}
    assert [name for name, data in old.items() if new.get(name) == data] == []
    now = peers.public_keys(peers.read(inv.workspace))
    assert (now[1] == public[1], now[2] == public[2]) == (True, False)


def test_the_bytes_of_the_inventory_stay_as_they_are(inv: FakeCluster) -> None:
    file = inv.workspace.inventory_file
    before = b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b" # \xc3\xa9\r\n")
    file.write_bytes(before)
    nodes.add(Context(), name="node9", peer_ip="10.0.0.9")
    assert file.read_bytes() == before + b"  node9:\r\n    peer_ip: 10.0.0.9\r\n"
    nodes_removal.remove(Context(), name="node9", yes=True)
    assert file.read_bytes() == before
