"""Proves on a cluster in memory, with real keys/, that a rotation of certificates ends well from wherever it was
killed, and that at no moment, even half-way through a deploy, somebody shows a certificate that another mistrusts.
"""

from collections.abc import Mapping, Sequence

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Node
from smallkube.operations.certificates import Rotation, Stage, under_way
from smallkube.operations.engine import REACHED, Operation
from smallkube.secrets import policy
from tests.unit.fake_cluster import FakeCluster, kills, run

FILES = (
    *("apiserver.crt", "front-proxy-client.crt", "kubelet-client.crt"),
    *(f"{word}_{node}.crt" for node in ("node1", "node2") for word in ("kubelet", "node", "coredns", "kube-proxy")),
)
TITLES = (
    f"issue new keys and certificates for {', '.join(FILES)}",
    "deploy: the new certificates are trusted as well",
    "wait until every pod trusts the API server's new certificate",
    "use the new certificates, keep the previous trusted",
    "deploy: they are used, the others still trusted",
    "verify that the API server and every kubelet use them",
    "stop trusting the others",
    "deploy: only those in use are trusted",
    "verify again that they are used, and the others refused",
    REACHED,
    "delete the others' keys",
)


@pytest.fixture(autouse=True)
def deployed(cluster: FakeCluster) -> None:
    cluster.deploy_certificates()


def rotation(cluster: FakeCluster) -> Rotation:
    rows = under_way(cluster.inventory, cluster.keys)
    rows = rows or tuple(row for row in policy.secrets_of(cluster.inventory) if row.certificate)
    return Rotation(cluster.cluster, cluster.master, cluster.connect, cluster.deploy_certificates, rows, seconds=0)


def operation(cluster: FakeCluster, *, abort: bool = False, pause: bool = False) -> Operation:
    return rotation(cluster).operation(cluster.keys, abort=abort, pause=pause)


def rotate(cluster: FakeCluster, kill_before: str | None = None, *, abort: bool = False) -> bool:
    return run(operation(cluster, abort=abort), cluster.keys, kill_before)


def certificates(cluster: FakeCluster) -> Mapping[str, bytes]:
    return cluster.keys.certificates


def assert_alone(cluster: FakeCluster) -> None:
    """keys/ has one version of each, and all machines show and trust exactly that."""
    found = certificates(cluster)
    assert sorted(found) == sorted(FILES)
    assert [name for name in cluster.keys.files if name.endswith((".new.age", ".old.age"))] == []
    for node in cluster.inventory.nodes:
        assert cluster.shown[node.name] == found
        assert cluster.trusted[node.name] == {name: {pem} for name, pem in found.items()}


def test_the_printed_titles_are_the_steps_that_run(cluster: FakeCluster) -> None:
    assert operation(cluster).titles(cluster.keys) == TITLES


@pytest.mark.parametrize("first", TITLES)
def test_killed_twice_the_same_command_ends_the_rotation(first: str, cluster: FakeCluster) -> None:
    before = certificates(cluster)
    assert not rotate(cluster, first)
    for second in kills(cluster, operation(cluster)):
        assert not second or rotate(cluster)
        assert not {*before.values()} & {*certificates(cluster).values()}
        assert_alone(cluster)
        assert cluster.pinned == {pem for shown in cluster.services.values() for pem in shown.values()}


def test_the_previous_identities_are_tried_and_refused(cluster: FakeCluster) -> None:
    before = {*cluster.pinned}
    assert rotate(cluster)
    assert before == {*cluster.refusals}


def test_a_certificate_that_stays_accepted_is_told(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallkube.operations.certificates.SECONDS", 0)
    before = {*cluster.pinned}
    rotating = rotation(cluster)

    def deploy(nodes: Sequence[Node] | None = None) -> None:
        cluster.deploy_certificates(nodes)
        cluster.pinned |= before

    rotating.deploy = deploy
    with pytest.raises(SmallkubeError, match="the API server: accepts a certificate that is not in keys/"):
        run(rotating.operation(cluster.keys, abort=False, pause=False), cluster.keys)


@pytest.mark.parametrize("killed", TITLES[1:7])
def test_aborted_the_previous_certificates_stay(killed: str, cluster: FakeCluster) -> None:
    before = certificates(cluster)
    rotate(cluster, killed)
    for again in kills(cluster, operation(cluster, abort=True)):
        if again in (None, *TITLES[4:]):
            assert not again or rotate(cluster, abort=rotation(cluster).stage is Stage.TRUSTED)
            assert certificates(cluster) == before
            assert_alone(cluster)


@pytest.mark.parametrize("killed", [None, TITLES[0], *TITLES[7:]])
def test_what_has_ended_or_not_begun_is_not_aborted(killed: str | None, cluster: FakeCluster) -> None:
    rotate(cluster, killed)
    with pytest.raises(UsageError, match="no rotation that can be aborted"):
        operation(cluster, abort=True)


def test_a_pause_ends_before_they_are_used(cluster: FakeCluster) -> None:
    before = certificates(cluster)
    paused = operation(cluster, pause=True)
    assert paused.titles(cluster.keys) == TITLES[:3]
    assert run(paused, cluster.keys)
    assert rotation(cluster).stage is Stage.TRUSTED
    assert {name: pem for name, pem in certificates(cluster).items() if name in FILES} == before
    assert rotate(cluster)
    assert_alone(cluster)
