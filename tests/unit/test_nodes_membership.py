"""Removing a node leads to what else it needs, and a node that is added again shares no key with the earlier one."""

import re
from collections.abc import Callable

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from smallkube.cli import nodes
from smallkube.cli.context import Current
from smallkube.inventory.cluster import Cluster
from smallkube.operations import revoke
from smallkube.secrets import generate, peers, transaction
from smallkube.secrets.transaction import changing_keys
from tests.unit.fake_cluster import FakeCluster


@pytest.fixture
def inv(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(cluster.workspace.root))
    monkeypatch.setattr(Current, "connect", lambda _, node: cluster.connect(node))
    return cluster


def remove() -> None:
    nodes.remove(Context(), name="node2", yes=True)


def leave_inventory(cluster: FakeCluster) -> Cluster:
    cluster.cordoned.add("node2")
    remove()
    return cluster.cluster


def generated(cluster: FakeCluster) -> None:
    with changing_keys(cluster.workspace):
        generate.act(cluster.cluster, generate.plan(cluster.cluster))


def test_a_member_with_pods_is_not_removed(inv: FakeCluster) -> None:
    before = inv.workspace.inventory_file.read_text()
    with pytest.raises(Exit, match=r"node2 is a member.* inv nodes.drain --node node2 first; .* --revoke") as refused:
        remove()
    assert refused.value.code == 2
    assert inv.workspace.inventory_file.read_text() == before


@pytest.mark.parametrize(
    ("cordoned", "joined", "api", "off", "says"),
    [
        (True, True, "active", False, "delete node node2.k8s.internal"),
        (False, False, "active", False, None),
        (False, True, "inactive", False, "not known whether node2 is a member of the cluster: kube-apiserver.service"),
        (False, True, "active", True, "not known whether node2 is a member of the cluster: can't be reached"),
    ],
)
def test_what_a_removal_leaves_is_said(
    cordoned: bool,
    joined: bool,
    api: str,
    off: bool,
    says: str | None,
    inv: FakeCluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inv.cordoned.update(["node2"] if cordoned else [])
    inv.off.update(["node1"] if off else [])
    inv.api = api
    if not joined:
        del inv.members["node2"]
    remove()
    said = capsys.readouterr().err
    assert "the machine of node2 still runs its system and has its secrets" in said
    assert says in said if says else "delete node" not in said
    assert [node.name for node in inv.inventory.nodes] == ["node1"]


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
    nodes.remove(Context(), name="node9", yes=True)
    assert file.read_bytes() == before
