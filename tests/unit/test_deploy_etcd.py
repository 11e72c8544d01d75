"""Verifies when a deploy is refused because of etcd's version: only where etcd itself would not start afterwards."""

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import etcd_versions
from smallkube.deploy.etcd_versions import EtcdFacts
from smallkube.inventory.models import Node
from smallkube.remote.fake import FakeHost, reply


@pytest.mark.parametrize(
    ("running", "data", "target"),
    [
        ("3.6.6", "3.6.0", "3.6.14"),
        ("3.6.14", "3.6.0", "3.6.6"),
        ("3.7.3", "3.7.0", "3.7.0"),
        ("3.7.3", "3.6.0", "3.6.14"),
        ("3.6.11", "", ""),
        ("", "", "3.7.3"),
        ("3.6.14", "3.6.0", "unknown"),
        ("3.6.14", "3..0", "3.6.14"),
    ],
)
def test_a_deploy_that_etcd_survives_goes_on(running: str, data: str, target: str) -> None:
    assert etcd_versions.refusal(EtcdFacts(running, data, target), reversible=True) is None


@pytest.mark.parametrize(
    ("running", "data", "target", "problem", "hint"),
    [
        ("3.7.3", "3.7.0", "3.6.14", "does not start on data of etcd 3.7.0", "downgrade enable 3.6` there"),
        ("3.6.10", "3.6.0", "3.7.3", "needs data of etcd 3.6.11 or later, not 3.6.10", "deploy etcd 3.6.11 first"),
        ("3.6.14", "3.6.0", "3.7.3", "rollback to etcd 3.6.14 would fail", "--no-rollback"),
        ("3.6.14", "3.6.0", "3.7.0-rc.0", "rollback to etcd 3.6.14 would fail", "--no-rollback"),
        ("3.7.0-rc.0", "3.7.0", "3.6.14", "does not start on data of etcd 3.7.0", "downgrade enable 3.6` there"),
    ],
)
def test_a_deploy_after_which_etcd_fails_is_refused(
    running: str, data: str, target: str, problem: str, hint: str
) -> None:
    found = etcd_versions.refusal(EtcdFacts(running, data, target), reversible=True)
    assert found is not None
    assert problem in found[0]
    assert hint in found[1]


def test_a_deploy_without_rollback_may_raise_the_minor() -> None:
    assert etcd_versions.refusal(EtcdFacts("3.6.11", "3.6.0", "3.7.3"), reversible=False) is None


def test_the_refusal_names_the_machine() -> None:
    answer = reply('{"script": "facts", "running": "3.7.3", "data": "3.7.0", "target": "3.6.14"}')
    host = FakeHost(Node(name="node1", index=1, peer_ip="192.168.0.1"), lambda _: answer)
    with pytest.raises(SmallkubeError, match="does not start") as caught:
        etcd_versions.verify(host, "/nix/store/new", reversible=True)
    assert "node1" in (caught.value.where or "")
