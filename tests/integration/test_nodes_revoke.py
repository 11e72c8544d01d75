"""Proves what `nodes.remove --revoke` is going to do, from wherever it was left, and when it refuses to begin."""

import json
from typing import Any

import pytest

from smallkube.core.errors import UsageError
from smallkube.operations import revoke
from smallkube.secrets import age
from tests.integration.crash import plaintexts

OWN = {"wgkube2.key.age", *(f"{word}_node2.key.age" for word in ("kubelet", "node", "coredns", "kube-proxy"))}


def plan(cluster: Any, name: str = "node2") -> revoke.Plan:
    return revoke.make(cluster.cluster, name)


def own(cluster: Any) -> set[str]:
    return {row.file for row in plan(cluster).own}


def test_the_steps_are_shown_and_nothing_is_touched(ready: Any) -> None:
    before, inventory = ready.snapshot(), ready.workspace.inventory_file.read_text()
    steps = json.loads(ready.done("nodes.remove", "node2", "--revoke", "--dry-run", "--json"))
    assert steps[1:5:3] == ["accept its certificates no more", "remove node2 from inventory.yaml"]
    assert all(file in steps[-1] for file in OWN)
    assert (ready.snapshot(), ready.workspace.inventory_file.read_text()) == (before, inventory)


def test_only_its_own_secrets_are_its_own(ready: Any) -> None:
    assert own(ready) == OWN
    assert plan(ready).shared == ()


def test_other_versions_and_earlier_tokens_are_its_own_too(ready: Any) -> None:
    left = {"node_node2.key.old.age", "kube_token_node2.age", "kube_token_node2.old.age"}
    for file in left:
        (ready.keys / file).write_bytes((ready.keys / "node_node2.key.age").read_bytes())
    assert own(ready) == OWN | left


def test_a_node_that_left_the_inventory_can_be_revoked(ready: Any) -> None:
    ready.write_inventory((1,))
    found = plan(ready)
    assert (found.inside, found.node.index, own(ready)) == (False, 2, OWN)
    for file in OWN:
        (ready.keys / file).unlink()
    assert plan(ready).own == ()
    (ready.workspace.hosts_keys_dir / "node2.pub").unlink()
    with pytest.raises(UsageError, match="nothing of it in keys/"):
        plan(ready)


def test_what_it_can_read_against_the_policy_is_found(ready: Any) -> None:
    secret, path = plaintexts(ready), ready.keys / "issuer.key.age"
    hosts = [(ready.workspace.hosts_keys_dir / f"node{index}.pub").read_text() for index in (1, 2)]
    master = (ready.keys / "master_key.pub").read_text().strip()
    keys = [" ".join(text.split()[:2]) for text in hosts]
    path.write_bytes(age.encrypt(secret["issuer.key.age"], [master, *keys]))
    assert [row.name for row in plan(ready).shared] == ["issuer.key"]
    steps = json.loads(ready.done("nodes.remove", "node2", "--revoke", "--dry-run", "--json"))
    assert any("re-encrypt issuer.key without it" in step for step in steps)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("node1", "is the primary"), ("node9", "nothing of it in keys/"), ("other", "no node 'other'"), ("node999", "no")],
)
def test_nodes_that_can_not_be_revoked(ready: Any, name: str, reason: str) -> None:
    assert reason in ready.refused("nodes.remove", name, "--revoke", "--yes")


def test_it_needs_consent_and_the_master(ready: Any) -> None:
    asked = ready.inv("nodes.remove", "node2", "--revoke")
    assert (asked.returncode, "pass --yes" in asked.stderr.splitlines()[-1]) == (2, True)
    ready.without_master()
    assert "keys/master_key: not found" in ready.refused("nodes.remove", "node2", "--revoke", "--yes")


def test_an_unreachable_primary_stops_the_revocation(ready: Any) -> None:
    document = json.dumps(
        {
            "cluster": {"name": "test"},
            "nodes": {
                "node1": {"peer_ip": "192.168.0.1", "ssh": {"host": "127.0.0.1", "port": 1}},
                "node2": {"peer_ip": "192.168.0.2"},
            },
        }
    )
    ready.workspace.inventory_file.write_text(document)
    before = ready.snapshot()
    run = ready.inv("nodes.remove", "node2", "--revoke", "--yes")
    assert run.returncode == 1 and "can't be reached" in run.stderr
    assert ready.snapshot() == before
    assert ready.workspace.inventory_file.read_text() == document
