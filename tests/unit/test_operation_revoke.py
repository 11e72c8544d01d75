"""Proves on a cluster in memory, with real keys/, that a revocation ends well from wherever it was killed, and that its
files stay in keys/ until nobody accepts what is in them.
"""

from collections.abc import Sequence

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.operations import revoke
from smallkube.operations.revoke import Revocation
from smallkube.secrets import kinds, policy, transaction
from smallkube.secrets.policy import Kind
from tests.conftest import INVENTORY
from tests.unit.fake_cluster import FakeCluster, generate_keys, kills, run

WORDS = ("kubelet", "node", "coredns", "kube-proxy")
OWN = ", ".join(("wgkube2.key.age", *(f"{word}_node2.key.age" for word in WORDS)))
TITLES = (
    "list the Secrets that pods on node2 use",
    "accept its certificates no more",
    "close its tunnel on every node that can be reached",
    "end its connections to the API server",
    "remove node2 from inventory.yaml",
    "remove node2 from peers.json and secrets.nix",
    "deploy the primary, without its certificates and WireGuard key",
    "delete the Node object of node2 and its pods",
    "verify that its certificates are refused",
    "deploy all other workers that can be reached, without its WireGuard key",
    "verify that no other node has its WireGuard key",
    f"delete its files in keys/: {OWN}, hosts/node2.pub",
)


def revocation(cluster: FakeCluster) -> Revocation:
    plan = revoke.make(cluster.cluster, "node2")
    return Revocation(plan.others, cluster.master, cluster.connect, cluster.deploy, plan)


def killed(cluster: FakeCluster, kill_before: str | None) -> bool:
    return not run(revocation(cluster).operation(), cluster.keys, kill_before)


def credentials(cluster: FakeCluster) -> tuple[set[bytes], str]:
    """node2's certificates, and its public WireGuard key."""
    row = next(row for row in policy.secrets_of(cluster.inventory) if row.name == "wgkube2.key")
    private = transaction.opened(cluster.keys, cluster.master, row)
    return {*cluster.services["node2"].values()}, kinds.wireguard_public(private, "key")


def assert_revoked(cluster: FakeCluster, shown: set[bytes], public: str) -> None:
    assert [node.name for node in cluster.inventory.nodes] == [*cluster.members] == ["node1"]
    assert cluster.pinned == {*cluster.services["node1"].values()}
    assert shown <= {*cluster.refusals}
    assert public not in cluster.peers["node1"]
    assert [path.name for path in cluster.workspace.keys_dir.rglob("*2*")] == []
    texts = [cluster.workspace.secrets_nix, cluster.workspace.recipients_file, cluster.workspace.peers_file]
    assert not any("node2" in path.read_text() or public in path.read_text() for path in texts)


def test_the_printed_titles_are_the_steps_that_run(cluster: FakeCluster) -> None:
    assert revocation(cluster).operation().titles(cluster.keys) == TITLES
    plan = revoke.make(cluster.cluster, "node2")
    dry = Revocation(plan.others, None, cluster.connect, cluster.deploy, plan)
    assert dry.operation().titles(cluster.keys) == TITLES


def test_it_says_what_was_exposed_and_removed(cluster: FakeCluster) -> None:
    revoking = revocation(cluster)
    assert run(revoking.operation(), cluster.keys)
    assert revoking.exposed == ("default/db",)
    assert revoking.removed == (*OWN.split(", "), *(f"{word}_node2.crt" for word in WORDS), "hosts/node2.pub")


@pytest.mark.parametrize("first", TITLES)
def test_killed_twice_the_same_command_ends_it(first: str, cluster: FakeCluster) -> None:
    shown, public = credentials(cluster)
    assert killed(cluster, first)
    for second in kills(cluster, revocation(cluster).operation()):
        assert not second or not killed(cluster, None)
        with pytest.raises(UsageError, match="nothing of it in keys/"):
            revocation(cluster)
        assert_revoked(cluster, shown, public)


def test_resumed_it_repeats_all_but_the_inventory(cluster: FakeCluster) -> None:
    killed(cluster, TITLES[8])
    operation = revocation(cluster).operation()
    assert operation.under_way(cluster.keys)
    assert operation.titles(cluster.keys) == (*TITLES[:4], *TITLES[5:])


@pytest.mark.parametrize("off", [(), ("node3",)])
def test_a_machine_that_is_off_keeps_no_certificate_valid(off: tuple[str, ...], cluster: FakeCluster) -> None:
    cluster.workspace.inventory_file.write_text(f"{INVENTORY}  node3:\n    peer_ip: 192.168.0.3\n")
    generate_keys(cluster.workspace)
    cluster = FakeCluster(cluster.workspace)
    shown, public = credentials(cluster)
    cluster.off.update(off)
    if off:
        with pytest.raises(SmallkubeError, match=r"refuses node2, but .* be accepted: node3 \(can't be reached\); run"):
            run(revocation(cluster).operation(), cluster.keys)
        assert shown.isdisjoint(cluster.pinned)
        assert shown <= {*cluster.refusals}
        assert {*cluster.members} == {"node1", "node3"}
        assert {*OWN.split(", ")} <= cluster.keys.files.keys()
        cluster.off.clear()
    assert run(revocation(cluster).operation(), cluster.keys)
    assert public not in cluster.peers["node1"] | cluster.peers["node3"]
    assert not {*OWN.split(", ")} & cluster.keys.files.keys()


def test_certificates_and_tunnel_end_before_any_deploy(cluster: FakeCluster) -> None:
    shown, public = credentials(cluster)
    before = len(cluster.deployments)
    assert killed(cluster, TITLES[4])
    assert shown.isdisjoint(cluster.pinned)
    assert public not in cluster.peers["node1"]
    assert len(cluster.deployments) == before


def test_certificates_that_are_still_accepted_keep_their_files(cluster: FakeCluster) -> None:
    shown, _ = credentials(cluster)

    def deploy(nodes: Sequence[object] | None = None, cluster_: Cluster | None = None, **_: object) -> None:
        cluster.pinned |= shown

    assert killed(cluster, TITLES[8])
    revoking = revocation(cluster)
    revoking.deploy = deploy
    cluster.services["node2"] = {}
    with pytest.raises(SmallkubeError, match=r"node_node2\.key is accepted"):
        run(revoking.operation(), cluster.keys)
    assert {*OWN.split(", ")} <= cluster.keys.files.keys()


def test_a_token_of_an_earlier_version_is_refused_and_removed(cluster: FakeCluster) -> None:
    row = {row.node: row for row in policy.node_tokens(cluster.inventory)}["node2"]
    token = kinds.make(Kind.TOKEN, ())
    with transaction.changing_keys(cluster.workspace):
        transaction.apply(cluster.cluster, transaction.Change({row: token}))
    cluster.deploy()
    assert token in cluster.accepted
    assert run(revocation(cluster).operation(), cluster.keys)
    assert (token.strip(), False) in cluster.answers
    assert row.file not in cluster.keys.files


def test_a_machine_that_keeps_the_peer_is_named(cluster: FakeCluster) -> None:
    _, public = credentials(cluster)
    assert killed(cluster, TITLES[10])
    revoking = revocation(cluster)
    revoking.deploy = lambda *_, **__: cluster.peers["node1"].add(public)
    with pytest.raises(SmallkubeError, match="node1 still has it as a peer"):
        run(revoking.operation(), cluster.keys)
    assert {*OWN.split(", ")} <= cluster.keys.files.keys()


def test_an_upgrade_under_way_does_not_delay_a_revocation(cluster: FakeCluster) -> None:
    file = cluster.workspace.inventory_file
    file.write_text(text := f"{INVENTORY}  node3:\n    peer_ip: 192.168.0.3\n")
    generate_keys(cluster.workspace)
    cluster = FakeCluster(cluster.workspace)
    file.write_text(text.replace("cluster:\n", "cluster:\n  kubernetes: '1.35'\n"))
    cluster.members |= {"node1": "v1.35.0", "node3": "v1.34.2"}
    _, public = credentials(cluster)
    assert run(revocation(cluster).operation(), cluster.keys)
    assert public not in cluster.peers["node1"] | cluster.peers["node3"]
