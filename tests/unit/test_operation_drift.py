"""The last deploy of a rotation is of what keys/ then holds: no node differs from the workspace at its end."""

from collections.abc import Sequence
from typing import Protocol

import pytest

from smallkube.inventory.models import Node
from smallkube.nix import bundle, render
from smallkube.operations.engine import Operation
from tests.unit import (
    test_operation_certificates,
    test_operation_encryption,
    test_operation_issuer,
    test_operation_tokens,
)
from tests.unit.fake_cluster import FakeCluster, run


class Rotation(Protocol):
    def operation(self, cluster: FakeCluster, *, abort: bool = False) -> Operation: ...


ROTATIONS: list[Rotation] = [
    test_operation_certificates,
    test_operation_encryption,
    test_operation_issuer,
    test_operation_tokens,
]


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_rotation_ends_with_what_was_deployed(
    rotation: Rotation, abort: bool, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    render.plan(cluster.cluster).apply()
    cluster.deploy_certificates()
    deployed: list[str] = []
    real, certificates = cluster.deploy, cluster.deploy_certificates

    def deploy(nodes: Sequence[Node] | None = None) -> object:
        deployed.append(bundle.assemble(cluster.cluster).digest)
        return real(nodes)

    def deploy_certificates(nodes: Sequence[Node] | None = None) -> None:
        deployed.append(bundle.assemble(cluster.cluster).digest)
        certificates(nodes)

    monkeypatch.setattr(cluster, "deploy", deploy)
    monkeypatch.setattr(cluster, "deploy_certificates", deploy_certificates)
    operation = rotation.operation(cluster)
    if abort:
        run(operation, cluster.keys, operation.titles(cluster.keys)[3])
        operation = rotation.operation(cluster, abort=True)
    assert run(operation, cluster.keys)
    assert bundle.assemble(cluster.cluster).digest == deployed[-1]
