"""Proves, from the side of the revoked node too, that `nodes.remove --revoke` works: its tunnel is dead, the API server
accepts neither its address nor its certificates, and the others go on; killed at each step, the same command ends it.
"""

import json
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import LabCluster, MakeCluster, killed_at, pod
from tests.cluster.identity import Identity
from tests.lab.operating import await_

REVOKE = ("nodes.remove", "node3", "--revoke", "--yes")
LINES = (
    "revoke: list the Secrets",
    "revoke: accept its certificates no more",
    "revoke: close its tunnel",
    "revoke: end its connections",
    "revoke: remove node3 from inventory",
    "revoke: remove node3 from peers.json",
    "revoke: deploy the primary",
    "node1: activate",
    "revoke: delete the Node object",
    "revoke: verify that its certificates",
    "revoke: deploy all other workers",
    "revoke: verify that no other node",
    "revoke: delete its files",
)
FROM = {"tunnel": "10.88.1.1", "tunnel 6": "fd88:1::1", "another worker": "10.88.2.1"}


@pytest.fixture(scope="module")
def three(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    with make_cluster("revoke", 3) as made:
        yield made


def reached(cluster: LabCluster) -> dict[str, bool]:
    """What node3 gets an answer from."""
    machine = cluster.machine("node3")
    pings = {name: ["ping", "-c1", "-W2", address] for name, address in FROM.items()}
    host = cluster.operator.node("node1").peer_ip
    ports = {name: f"exec 3<>/dev/tcp/{at}/6443" for name, at in (("API", host), ("API inside", "10.88.1.1"))}
    argvs = {**pings, **{name: ["timeout", "3", "bash", "-c", script] for name, script in ports.items()}}
    return {name: machine.execute(argv).returncode == 0 for name, argv in argvs.items()}


def test_a_compromised_node_is_revoked(three: LabCluster) -> None:
    assert all(reached(three).values()), reached(three)
    stolen = Identity.of(three, "node", "node3")
    assert stolen.answer(three) == "200"
    three.kubectl("create", "secret", "generic", "db", "--from-literal=password=1")
    three.apply(pod("stays", "node2"))
    environment = [{"secretRef": {"name": "db"}}]
    lost = pod("lost", "node3")
    lost["spec"]["containers"][0]["envFrom"] = environment
    three.apply(lost)
    three.kubectl("wait", "--for=condition=Ready", "pod/stays", "pod/lost", "--timeout=60s", seconds=70)
    stays = three.get("pod", "stays")["metadata"]["uid"]
    exposed = json.loads(three.operator.done(*REVOKE, "--json"))["exposed"]
    assert exposed == ["default/db"]
    assert not any(reached(three).values()), reached(three)
    assert stolen.answer(three) == "401"
    assert three.ready() == {"node1.k8s.internal": True, "node2.k8s.internal": True}
    pods = {item["metadata"]["name"]: item["metadata"]["uid"] for item in three.get("pods")["items"]}
    assert pods == {"stays": stays}
    assert list(three.operator.workspace.keys_dir.rglob("*node3*")) == []
    three.operator.done("keys.check")
    three.operator.done("deploy.status")
    said = three.operator.inv(*REVOKE)
    assert (said.returncode, "nothing of it in keys/" in said.stderr) == (2, True), said.stderr


def test_killed_at_each_step_the_same_command_ends_it(three: LabCluster) -> None:
    at = {machine.index: machine for machine in three.operator.lab.machines}[3]
    inventory = three.operator.workspace.inventory_file
    ssh = three.operator.node("node2").ssh
    host = f"{ssh.host.rpartition('.')[0]}.{at.index}"
    peer = f"{three.operator.node('node2').peer_ip.rpartition('.')[0]}.{at.index}"
    inventory.write_text(
        f"{inventory.read_text()}  node3:\n    peer_ip: {peer}\n    ssh: {{host: {host}, port: {ssh.port}}}\n"
    )
    for step in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",), ("deploy",)):
        three.operator.done(*step)
    three.eventually("node3 is back", lambda: three.ready().get("node3.k8s.internal"))
    assert all(reached(three).values()), "a node that is added again"
    stolen = Identity.of(three, "node", "node3")
    for line in LINES:
        killed_at(three, line, *REVOKE)
    await_("ended", lambda: three.operator.inv(*REVOKE).returncode in (0, 2), 240)
    assert not any(reached(three).values()), reached(three)
    assert stolen.answer(three) == "401"
    assert set(three.ready()) == {"node1.k8s.internal", "node2.k8s.internal"}
    assert list(three.operator.workspace.keys_dir.rglob("*node3*")) == []
    three.operator.done("keys.check")
