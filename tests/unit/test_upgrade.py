"""Proves in which stages an upgrade goes, when it takes its backup, and what it names as the way back."""

from dataclasses import replace
from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.kube.kubectl import Api, Member
from smallkube.operations.upgrade import make, way_back
from smallkube.operations.upgrade_guard import Facts
from tests.unit.test_cluster_skew import machine, well

OLD, NEW = "v1.34.2", "v1.35.0"


def inventory(kubernetes: str = "1.35", nodes: int = 2) -> Inventory:
    rows = "".join(f"  node{index}: {{peer_ip: 192.0.2.{index}}}\n" for index in range(1, nodes + 1))
    return parse(f'cluster: {{name: test, kubernetes: "{kubernetes}"}}\nnodes:\n{rows}', Path("inventory.yaml"))


def facts(nodes: int, server: str, *kubelets: str) -> Facts:
    """What runs: the API server's version, and each kubelet's by index."""
    members = {
        f"node{index}.k8s.internal": Member(True, False, False, version) for index, version in enumerate(kubelets, 1)
    }
    machines = {
        f"node{index}": machine(kubelet=version, kube_proxy=version) for index, version in enumerate(kubelets, 1)
    }
    assert len(kubelets) == nodes
    machines["node1"] = machine(kube_apiserver=server, kubelet=kubelets[0], kube_proxy=kubelets[0])
    return replace(well(), api=Api(server, (), members), machines=machines)


@pytest.mark.parametrize(
    ("batch", "stages"),
    [
        (1, [["node1"], ["node2"], ["node3"], ["node4"]]),
        (2, [["node1"], ["node2", "node3"], ["node4"]]),
        (9, [["node1"], ["node2", "node3", "node4"]]),
    ],
)
def test_the_primary_is_alone_and_first(batch: int, stages: list[list[str]]) -> None:
    plan = make(inventory(nodes=4), facts(4, OLD, OLD, OLD, OLD, OLD), batch)
    assert [[node.name for node in stage] for stage in plan.stages] == stages
    assert plan.backup
    assert len(plan.steps) == len(stages) + 1


def test_one_node_alone() -> None:
    assert len(make(inventory(nodes=1), facts(1, OLD, OLD), 1).stages) == 1


def test_half_way_no_backup_is_taken_as_it_would_be_no_way_back() -> None:
    assert not make(inventory(), facts(2, NEW, NEW, OLD), 1).backup
    assert make(inventory(), facts(2, NEW, NEW, NEW), 1).backup
    assert make(inventory("1.34"), facts(2, OLD, OLD, OLD), 1).backup


@pytest.mark.parametrize(
    ("kubernetes", "found", "reason"),
    [
        ("1.36", facts(2, OLD, OLD, OLD), "minor step: .*one minor at a time"),
        ("1.34", facts(2, NEW, NEW, NEW), "can't go back"),
        ("1.35", facts(2, OLD, OLD, NEW), "the primary comes first"),
    ],
)
def test_what_the_guard_forbids_does_not_begin(kubernetes: str, found: Facts, reason: str) -> None:
    with pytest.raises(SmallkubeError, match=reason):
        make(inventory(kubernetes), found, 1)


def test_the_way_back_names_the_nodes_and_for_the_primary_the_backup() -> None:
    whole = inventory(nodes=3)
    assert "inv deploy.rollback --node node1, then" in way_back([whole.primary], "b1")
    assert "inv etcd.restore --name b1" in way_back([whole.primary], "b1")
    assert "--name NAME" in way_back([whole.primary], "")
    workers = way_back(whole.workers, "b1")
    assert workers.endswith("inv deploy.rollback --node node2 --node node3")
