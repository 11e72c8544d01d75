"""A row that is added to the policy is all that a new token or certificate needs: every task then knows it."""

import json
import os
from typing import Any

import pytest

from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks
from smallkube.deploy.facts import HostFacts
from smallkube.operations import revoke, tokens
from smallkube.operations.certificates import Rotation, under_way
from smallkube.secrets import policy, transaction
from tests import extra_rows, forked
from tests.unit.fake_cluster import FakeCluster, run

NAMES = {"kube_token_agent_node1", "kube_token_agent_node2", "agent_node1.key", "agent_node2.key"}


def inv(cluster: FakeCluster, *words: str) -> str:
    """In a fork of this process, which has the same policy."""
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(cluster.workspace.root)}
    done = forked.inv(*words, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inv_json(cluster: FakeCluster, *words: str) -> Any:
    return json.loads(inv(cluster, *words, "--json"))


@pytest.fixture
def extended(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster whose policy has got four more rows, and whose secrets are generated."""
    extra_rows.add_to_policy(monkeypatch)
    created = set(inv_json(cluster, "keys.generate")["created"])
    assert created == {f"{name}.age" for name in NAMES} | {"agent_node1.crt", "agent_node2.crt"}
    return cluster


def test_keys_tasks_know_new_rows(extended: FakeCluster) -> None:
    assert inv_json(extended, "keys.check")["problems"] == []
    rows = {row["name"]: row for row in inv_json(extended, "keys.list")}
    token = rows["kube_token_agent_node2"]
    assert rows.keys() >= NAMES and token["readers"] == ["master", "node1", "node2"]
    assert (token["user"], token["access"]["mode"], token["units"]) == ("agent:node2", "0440", ["agent"])
    rules = extended.workspace.secrets_nix.read_text()
    assert '"kube_token_agent_node2.age".publicKeys = [ master node1 node2 ];' in rules
    (extended.workspace.keys_dir / "agent_node2.crt").unlink()
    assert [row["file"] for row in _problems(extended)] == ["agent_node2.crt"]


def _problems(cluster: FakeCluster) -> Any:
    environment = {**os.environ, "SMALLKUBE_WORKSPACE": str(cluster.workspace.root)}
    return json.loads(forked.inv("keys.check", "--json", environment=environment).stdout)["problems"]


def test_a_new_master_reads_new_rows_and_names_their_rotation(extended: FakeCluster) -> None:
    report = inv_json(extended, "keys.rotate-master", "--yes")
    assert set(report["rekeyed"]) >= {f"{name}.age" for name in NAMES}
    replaced = {name: row["command"] for row in report["reissue"] for name in row["names"]}
    assert replaced["kube_token_agent_node1"] == "inv tokens.rotate --all"
    assert replaced["agent_node1.key"] == "inv keys.rotate-certificates --all"


def test_new_rows_are_rendered_with_users_and_modes(extended: FakeCluster) -> None:
    inv(extended, "nix.render")
    primary, worker = ((extended.workspace.rendered_dir / f"node{n}.nix").read_text() for n in (1, 2))
    assert 'secret = "kube_token_agent_node2"' in primary and '"readers"' in primary
    assert "tokenUsers" not in worker and "kube_token_agent_node1" not in worker
    access = worker[worker.index("secretAccess") :]
    assert 'kube_token_agent_node2 = {\n      mode = "0440";\n      group = "systemd-network";' in access


def test_the_machines_files_are_checked_by_the_policy(extended: FakeCluster) -> None:
    inventory, files = extended.inventory, extended.keys.files
    node = inventory.node("node2")
    expected = policy.secrets_by_node(inventory, files)[node.name]
    rights = {name: str(row.access) for name, row in expected.items()}

    def faults(rights: dict[str, str]) -> list[str]:
        facts = HostFacts("", (), "", "", 0, frozenset(), {}, {}, {}, checks.TABLES, rights, None, "", "", {}, ())
        return [check.detail for check in failed(checks.protection(inventory, node, facts, files))]

    assert faults(rights) == []
    wrong = {"kube_token_agent_node2": "444 root systemd-network"}
    assert faults(rights | wrong) == [
        "kube_token_agent_node2 has 444 root systemd-network, not 440 root systemd-network"
    ]


def test_new_tokens_are_rotated(extended: FakeCluster) -> None:
    planned = inv_json(extended, "tokens.rotate", "--user", "agent-node2", "--dry-run")
    assert planned[0] == "generate tokens for agent-node2, keep the previous"
    users = tokens.select(policy.tokens(extended.inventory), ["agent-node2", "agent:node1"])
    extended.deploy()
    before = dict(extended.used)
    rotation = tokens.Rotation(extended.cluster, extended.master, extended.connect, extended.deploy, users, 0)
    assert run(rotation.operation(extended.keys, abort=False), extended.keys)
    changed = {name for name, token in extended.used.items() if token != before[name]}
    assert changed == {"agent-node1", "agent-node2"}
    assert {(before[name].strip(), False) for name in changed} <= {*extended.answers}


def test_a_new_client_that_keeps_its_token_is_waited_for(extended: FakeCluster) -> None:
    users = tokens.select(policy.tokens(extended.inventory), ["agent-node2"])
    extended.deploy()
    before = extended.used["agent-node2"]

    def deploy(_: object) -> None:
        extended.deploy()
        extended.used["agent-node2"] = before

    rotation = tokens.Rotation(extended.cluster, extended.master, extended.connect, deploy, users, 0)
    with pytest.raises(SmallkubeError, match="agent on node2"):
        run(rotation.operation(extended.keys, abort=False), extended.keys)


def test_new_certificates_are_rotated_and_verified(extended: FakeCluster) -> None:
    planned = inv_json(extended, "keys.rotate-certificates", "--all", "--dry-run")
    assert {"agent_node1.crt", "agent_node2.crt"} <= {row["file"] for row in planned["issued"]}
    extended.deploy_certificates()
    rows = tuple(row for row in policy.secrets_of(extended.inventory) if row.certificate and "agent" in row.name)
    before = extended.keys.certificates
    rotation = Rotation(extended.cluster, None, extended.connect, extended.deploy_certificates, rows, 0)
    assert run(rotation.operation(extended.keys, abort=False, pause=False), extended.keys)
    after = extended.keys.certificates
    assert {name for name in after if after[name] != before[name]} == {"agent_node1.crt", "agent_node2.crt"}
    extended.shown["node2"]["agent_node2.crt"] = before["agent_node2.crt"]
    again = Rotation(extended.cluster, None, extended.connect, lambda: None, rows, 0)
    with pytest.raises(SmallkubeError, match=r"https://node2\.k8s\.internal:9443/metrics: curl: \(60\)"):
        again._await_used()
    assert under_way(extended.inventory, extended.keys) == ()


def test_new_rows_of_a_removed_node_go_with_it(extended: FakeCluster) -> None:
    steps = inv_json(extended, "nodes.remove", "node2", "--revoke", "--dry-run")
    assert "kube_token_agent_node2.age" in steps[-1] and "agent_node2.key.age" in steps[-1]
    own = revoke.make(extended.cluster, "node2").own
    assert {row.name for row in own} >= {"kube_token_agent_node2", "agent_node2.key"}
    extended.admits = True
    inv(extended, "nodes.remove", "node2", "--yes")
    stale = {row["file"] for row in _problems(extended)}
    assert stale >= {"kube_token_agent_node2.age", "agent_node2.key.age", "agent_node2.crt"}
    assert "kube_token_agent_node1.age" not in stale
    assert transaction.unfinished(extended.workspace) == ()
