"""Proves on a running cluster that an administrator is removed by one command, also when it is killed on its way: what
they could read is refused or of no use, their identity opens nothing, and pods and Secrets stay.
"""

import json
import time
from collections.abc import Iterator

import pytest

from smallkube.secrets import age
from tests.cluster.conftest import LabCluster, MakeCluster, killed_at, pod
from tests.cluster.test_encryption import stored
from tests.cluster.test_tokens import answer, token

REMOVE = ("admins.remove", "bob", "--yes", "--overlap", "20")
LINES = (
    "admins: re-encrypt every secret",
    "admins: tokens.rotate: wait until every client",
    "admins: encryption.rotate: rewrite",
    "admins: keys.rotate-certificates: use the new",
)


@pytest.fixture(scope="module")
def company(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    with make_cluster("admins", 2) as made:
        yield made


def opened(cluster: LabCluster, identity: age.Master) -> dict[str, bytes]:
    """The secrets and backups that this identity opens, and what they hold."""
    folder, found = cluster.operator.workspace.root, {}
    for path in (*folder.glob("keys/*.age"), *folder.glob("backups/*.age")):
        try:
            found[path.name] = age.decrypt(path.read_bytes(), identity, path.name)
        except age.NotForMaster:
            continue
    return found


def complete(cluster: LabCluster) -> None:
    """Run what is left; it lasts for minutes, and what a killed deploy left on machines rolls back in its own time."""
    operator, failures = cluster.operator, list[str]()

    def done() -> bool:
        ended = operator.end(operator.start(*REMOVE), 900)
        failures.append(ended.stderr)
        return ended.returncode == 0

    deadline = time.monotonic() + 1200
    while not done():
        assert time.monotonic() < deadline, failures


def test_removed_nothing_that_bob_could_read_is_of_use(company: LabCluster) -> None:
    operator = company.operator
    text, recipient = age.new_identity()
    bob = age.parse_master(text, "bob")
    operator.done("admins.add", "bob", "--recipient", recipient)
    operator.done("etcd.backup")
    company.kubectl("create", "secret", "generic", "db", "--from-literal=password=1")
    company.apply(pod("stays", "node2"))
    company.kubectl("wait", "--for=condition=Ready", "pod/stays", "--timeout=60s", seconds=70)
    uid = company.get("pod", "stays")["metadata"]["uid"]
    before, keys = opened(company, bob), stored(company)
    (backup,) = (name for name in before if name.endswith(".db.zst.age"))
    peers = company.machine("node1").check("wg", "show", "wgkube", "peers")
    for line in LINES:
        killed_at(company, line, *REMOVE)
    complete(company)
    assert opened(company, bob).keys() == {backup}
    for name in ("root", "system_kube-scheduler"):
        assert answer(company, before[f"kube_token_{name}.age"].decode().strip()) == "refused"
        assert answer(company, token(company, f"kube_token_{name}")) == "accepted"
    now = opened(company, age.require_master(operator.workspace, "to test"))
    assert not {*before.values()} & {data for name, data in now.items() if name != backup}
    assert company.machine("node1").check("wg", "show", "wgkube", "peers") != peers
    assert not stored(company).keys() & keys.keys()
    assert company.get("secret", "db")["data"] == {"password": "MQ=="}
    assert company.get("pod", "stays")["metadata"]["uid"] == uid
    company.eventually("all Ready", lambda: all(company.ready().values()))
    assert [row["name"] for row in json.loads(operator.done("admins.list", "--json"))] == ["master"]
    for check in ("keys.check", "etcd.verify", "net.check", "cluster.smoke"):
        operator.done(check)
