"""Proves on a cluster in memory, with real keys/, that a rotation of the key for ServiceAccount tokens ends well from
wherever it was killed, and that no pod has a token that is refused.
"""

import pytest

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.operations.engine import Operation
from smallkube.operations.issuer import Rotation
from tests.unit.fake_cluster import FakeCluster, kills, run

TITLES = (
    "generate a key, keep the previous",
    "deploy: the current key signs, tokens of both are accepted",
    "verify that tokens of both are accepted",
    "replace the pods' tokens of the other key (restarts kubelets)",
    "verify that no Secret holds a token of the other key",
    "wait 0 s for programs to read their new token",
    "retire the other version",
    "deploy: only tokens of the current key are accepted",
    "verify that tokens of the retired key are refused",
    "delete the retired version",
)


def operation(cluster: FakeCluster, *, abort: bool = False) -> Operation:
    rotation = Rotation(cluster.cluster, cluster.master, cluster.connect, cluster.deploy, wait=0, seconds=0)
    return rotation.operation(cluster.keys, abort=abort)


def rotate(cluster: FakeCluster, kill_before: str | None = None, *, abort: bool = False) -> bool:
    done = run(operation(cluster, abort=abort), cluster.keys, kill_before)
    assert_accepted(cluster)
    return done


def assert_accepted(cluster: FakeCluster) -> None:
    assert {*cluster.pod_tokens.values()} <= {*cluster.issuers}


def assert_one(cluster: FakeCluster, key: str) -> None:
    """The API server and all pods use this key alone, and keys/ has no other."""
    assert [*cluster.issuers] == [*{*cluster.pod_tokens.values()}] == [key]
    assert [name for name in cluster.keys.files if "issuer" in name] == ["issuer.key.age"]


def test_the_printed_titles_are_the_steps_that_run(cluster: FakeCluster) -> None:
    assert operation(cluster).titles(cluster.keys) == TITLES


@pytest.mark.parametrize("first", TITLES)
def test_killed_twice_the_same_command_ends_the_rotation(first: str, cluster: FakeCluster) -> None:
    (before,) = cluster.issuers
    assert not rotate(cluster, first)
    for second in kills(cluster, operation(cluster)):
        assert_accepted(cluster)
        assert not second or rotate(cluster)
        assert cluster.issuers[0] != before
        assert_one(cluster, cluster.issuers[0])


@pytest.mark.parametrize("killed", TITLES[1:7])
def test_aborted_before_retirement_the_previous_key_signs(killed: str, cluster: FakeCluster) -> None:
    (before,) = cluster.issuers
    rotate(cluster, killed)
    for again in kills(cluster, operation(cluster, abort=True)):
        assert_accepted(cluster)
        if again in (None, *TITLES[3:8]):
            assert not again or rotate(cluster)
            assert_one(cluster, before)


@pytest.mark.parametrize("killed", [None, TITLES[0], *TITLES[7:]])
def test_what_is_retired_or_not_begun_is_not_aborted(killed: str | None, cluster: FakeCluster) -> None:
    rotate(cluster, killed)
    with pytest.raises(UsageError, match="no rotation that can be aborted"):
        operation(cluster, abort=True)


def test_a_secret_with_a_token_of_the_previous_key_keeps_both(cluster: FakeCluster) -> None:
    cluster.secrets["default/robot"] = cluster.issuers[0]
    with pytest.raises(SmallkubeError, match="Secrets hold tokens of the other key: default/robot"):
        rotate(cluster)
    assert len(cluster.issuers) == 2
    cluster.secrets.clear()
    assert rotate(cluster)
    assert_one(cluster, cluster.issuers[0])
