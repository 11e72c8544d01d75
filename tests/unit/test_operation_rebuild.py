"""Proves on a cluster in memory, with real keys/, that a rebuild of the primary ends well from wherever it was killed:
etcd has its data before the first deploy, and only the host key whose fingerprint was read is trusted.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from smallkube.core import checks
from smallkube.core.checks import Check
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.etcd.record import Record
from smallkube.inventory.models import Node
from smallkube.kube.kubectl import Api, Lease
from smallkube.kube.members import Member
from smallkube.operations import rebuild
from smallkube.operations.rebuild import Rebuild, is_back
from smallkube.remote.host import Host
from smallkube.remote.scan import Scanned
from smallkube.secrets.header import parse_header
from smallkube.secrets.host_keys import parse_host_key
from tests.unit.fake_cluster import HOSTS, FakeCluster, kills, run

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)
READY = Member(ready=True, cordoned=False, marked=False, kubelet="v1.34.2")
SICK = Member(ready=False, cordoned=False, marked=False, kubelet="v1.34.2")
FRESH, STALE = Lease(BEGAN + timedelta(seconds=1), 40), Lease(BEGAN - timedelta(hours=1), 40)
RECORD = Record(
    name="b1",
    cluster="test",
    sequence=1,
    created="2026-11-23T12:00:00Z",
    size=1,
    snapshot_sha256="5a",
    revision=1,
    etcd="3.6.6",
    stored_size=1,
    stored_sha256="",
    recipient="age1",
)
NEW_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGzX2yVnXWFzDGSCC3dgoOhYmHRpFNCVe1SPdSiWX4Vo"
KEY = parse_host_key(NEW_KEY, "test")
TITLES = (
    "verify b1, taken 2026-11-23T12:00:00Z: later changes are lost",
    f"trust node1's new host key {KEY.fingerprint}",
    "verify that etcd on node1 has no other data",
    "encrypt what node1 reads to its host key; generate what is missing in keys/",
    "build node1's system there, without activating it",
    "restore the backup into /var/lib/etcd there, its revisions raised by 1000000000",
    "deploy node1; where its address has changed, all nodes in lockstep",
    "restart kubelet, kube-proxy and CoreDNS on node2",
    "wait until all nodes are Ready (0 s at most)",
)


@pytest.fixture
def lost(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Another machine in the place of node1, with another host key and nothing in etcd, and a sound backup."""
    cluster.host_key = NEW_KEY
    cluster.deployments.clear()

    @contextmanager
    def decrypted(*_: object) -> Iterator[io.BytesIO]:
        yield io.BytesIO(b"snapshot")

    class Catalog:
        def find(self, _: str) -> Record:
            return RECORD

    @contextmanager
    def locked(_: object) -> Iterator[Catalog]:
        yield Catalog()

    monkeypatch.setattr(rebuild, "decrypted", decrypted)
    monkeypatch.setattr("smallkube.etcd.backup.locked", locked)
    monkeypatch.setattr("smallkube.etcd.verify.verify", lambda *_: [Check("b1", "snapshot", checks.Result.OK)])
    return cluster


def rebuilding(cluster: FakeCluster) -> Rebuild:
    stored = (cluster.workspace.hosts_keys_dir / "node1.pub").read_text()
    scanned = Scanned(cluster.inventory.primary, KEY, parse_host_key(stored, "stored"))
    return Rebuild(cluster.cluster, cluster.master, cluster.connect, cluster.deploy, RECORD, scanned, seconds=0)


def killed(cluster: FakeCluster, kill_before: str | None) -> bool:
    return not run(rebuilding(cluster).operation(), cluster.keys, kill_before)


def assert_rebuilt(cluster: FakeCluster) -> None:
    assert cluster.etcd == "seeded b1"
    assert [*{*map(tuple, cluster.deployments)}] == [("node1",)]
    assert {*cluster.restarted} == {"node2"}
    data = cluster.keys.files["node_node1.key.age"]
    assert parse_header(data, "token").ssh_tags == (KEY.tag,)


def test_the_printed_titles_are_the_steps_that_run(lost: FakeCluster) -> None:
    assert rebuilding(lost).operation().titles(lost.keys) == TITLES
    killed(lost, TITLES[2])
    assert rebuilding(lost).operation().titles(lost.keys) == (TITLES[0], *TITLES[2:])


@pytest.mark.parametrize("first", TITLES)
def test_killed_twice_the_same_command_ends_it(first: str, lost: FakeCluster) -> None:
    assert killed(lost, first)
    for second in kills(lost, rebuilding(lost).operation()):
        assert not second or not killed(lost, None)
        assert_rebuilt(lost)


def test_etcd_has_its_data_before_anything_is_activated(lost: FakeCluster) -> None:
    assert killed(lost, TITLES[6])
    assert (lost.etcd, lost.deployments) == ("seeded b1", [])


def test_a_backup_that_an_earlier_run_restored_stays(lost: FakeCluster) -> None:
    lost.etcd = "seeded b0"
    found = rebuilding(lost)
    assert run(found.operation(), lost.keys)
    assert (lost.etcd, found.backup) == ("seeded b0", "b0")


def test_data_of_unknown_origin_ends_it(lost: FakeCluster) -> None:
    lost.etcd = "data"
    with pytest.raises(UsageError, match="it is not a new machine"):
        killed(lost, None)
    assert lost.deployments == []


@pytest.mark.parametrize(
    "found",
    [
        Check("b1", "snapshot", checks.Result.FAILED, "damaged"),
        Check("b1", "ciphertext", checks.Result.OK, "not opened"),
    ],
)
def test_a_backup_that_is_not_sound_ends_it(found: Check, lost: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallkube.etcd.verify.verify", lambda *_: [found])
    with pytest.raises(SmallkubeError, match=found.detail):
        killed(lost, None)
    assert (lost.workspace.hosts_keys_dir / "node1.pub").read_text().split()[1] in HOSTS["node1"]


def test_a_node_that_does_not_come_back_is_named(lost: FakeCluster) -> None:
    del lost.members["node2"]
    with pytest.raises(SmallkubeError, match="rebuilt, but not Ready: node2"):
        killed(lost, None)
    lost.members["node2"] = "v1.34.2"
    assert not killed(lost, None)


def test_a_worker_that_can_not_be_restarted_is_noted(lost: FakeCluster) -> None:
    found = rebuilding(lost)

    def connect(node: Node) -> Host:
        if node.name == "node2":
            raise SmallkubeError("no route")
        return lost.connect(node)

    found.connect = connect
    assert run(found.operation(), lost.keys)
    assert found.unrestarted == {"node2": "no route"}


@pytest.mark.parametrize(
    ("found", "back"),
    [
        (Api("v1.34.2", (), {"n": READY}, {"n": FRESH}), True),
        (Api("v1.34.2", (), {"n": READY}, {"n": STALE}), False),
        (Api("v1.34.2", (), {"n": READY}, {}), False),
        (Api("v1.34.2", (), {"n": SICK}, {"n": FRESH}), False),
        (Api("v1.34.2", (), {"m": READY}, {"n": FRESH}), False),
        (Api(), False),
    ],
)
def test_what_the_backup_says_of_a_node_does_not_count(found: Api, back: bool) -> None:
    assert is_back(found, "n", BEGAN) is back


def test_only_the_fingerprint_that_was_read_is_trusted(cluster: FakeCluster) -> None:
    found = rebuilding(cluster)
    found.check_fingerprint(KEY.fingerprint)
    with pytest.raises(UsageError, match="not SHA256:other"):
        found.check_fingerprint("SHA256:other")
