"""Proves on a cluster in memory in which stages an upgrade goes, that it ends well from wherever it was killed, when it
takes its backup, and what it names to roll back.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.kube.kubectl import Api
from smallkube.kube.members import Member
from smallkube.operations.cluster_facts import Facts
from smallkube.operations.upgrade import Plan, Upgrade, how_to_roll_back
from smallkube.operations.upgrade import make as make_plan
from smallkube.operations.upgrade_check import Readiness
from tests.unit.fake_cluster import FakeCluster, run
from tests.unit.test_cluster_skew import healthy, machine

OLD, NEW = "v1.34.2", "v1.35.0"
TITLES = (
    "back up etcd and verify the backup",
    "deploy node1",
    "smoke test after node1",
    "deploy node2",
    "smoke test after node2",
)


def inventory(kubernetes: str = "1.35", nodes: int = 2) -> Inventory:
    rows = "".join(f"  node{index}: {{peer_ip: 192.0.2.{index}}}\n" for index in range(1, nodes + 1))
    return parse(f'cluster: {{name: test, kubernetes: "{kubernetes}"}}\nnodes:\n{rows}', Path("inventory.yaml"))


def make(inventory: Inventory, found: Facts[Readiness], batch: int) -> Plan:
    return make_plan(Cluster(Workspace(Path("/nowhere")), inventory), found, batch)


def facts(nodes: int, server: str, *kubelets: str) -> Facts[Readiness]:
    """What runs: the API server's version, and each kubelet's by index."""
    members = {
        f"node{index}.k8s.internal": Member(True, False, False, version) for index, version in enumerate(kubelets, 1)
    }
    machines = {
        f"node{index}": machine(kubelet=version, kube_proxy=version) for index, version in enumerate(kubelets, 1)
    }
    assert len(kubelets) == nodes
    machines["node1"] = machine(kube_apiserver=server, kubelet=kubelets[0], kube_proxy=kubelets[0])
    return replace(healthy(), api=Api(server, (), members), machines=machines)


@pytest.fixture
def outdated(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Both nodes run the previous version of Kubernetes."""

    def back_up(run: Upgrade) -> None:
        assert len({*cluster.members.values()}) == 1
        run.backup = "b1"

    monkeypatch.setattr(Upgrade, "back_up", back_up)
    file = cluster.workspace.inventory_file
    file.write_text(file.read_text().replace("cluster:\n", 'cluster:\n  kubernetes: "1.35"\n'))
    cluster.members = dict.fromkeys(cluster.members, OLD)
    cluster.deployments.clear()
    return cluster


def now(cluster: FakeCluster) -> Facts[Readiness]:
    versions = [*cluster.members.values()]
    return facts(2, versions[0], *versions)


def upgrading(
    cluster: FakeCluster, faults: Sequence[Sequence[str]] = (), settle: int = 0, messages: list[str] | None = None
) -> Upgrade:
    """``faults``: what each smoke test finds, in order."""
    plan = make_plan(cluster.cluster, now(cluster), 1)
    results = iter(faults)
    return Upgrade(
        cluster.cluster,
        None,
        cluster.connect,
        cluster.deploy,
        plan,
        lambda: next(results, ()),
        lambda: now(cluster),
        settle,
        messages.append if messages is not None else lambda _: None,
    )


def killed(cluster: FakeCluster, kill_before: str | None) -> bool:
    return not run(upgrading(cluster).operation(), cluster.keys, kill_before)


def test_the_printed_titles_are_the_steps_that_run(outdated: FakeCluster) -> None:
    assert upgrading(outdated).operation().titles(outdated.keys) == TITLES
    found = upgrading(outdated)
    assert run(found.operation(), outdated.keys)
    assert (found.version, found.backup) == (NEW, "b1")
    assert outdated.deployments == [["node1"], ["node2"]]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(TITLES, TITLES)))
def test_killed_twice_the_same_command_ends_it(first: str, second: str, outdated: FakeCluster) -> None:
    assert killed(outdated, first)
    half_way = [*outdated.members.values()] == [NEW, OLD]
    assert (upgrading(outdated).operation().steps[0].title == TITLES[0]) is not half_way
    if killed(outdated, second):
        assert not killed(outdated, None)
    assert {*outdated.members.values()} == {NEW}


def test_a_failed_smoke_test_ends_it_and_says_how_to_roll_back(outdated: FakeCluster) -> None:
    messages: list[str] = []
    with pytest.raises(SmallkubeError, match="after node1 checks failed: dns") as raised:
        run(upgrading(outdated, [["dns"]], messages=messages).operation(), outdated.keys)
    assert outdated.deployments == [["node1"]]
    assert "inv etcd.restore --name b1" in str(raised.value)
    assert messages == ["smoke test failed: dns"]


def test_a_smoke_test_that_recovers_does_not_end_it(outdated: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smallkube.core.polling.time.sleep", lambda _: None)
    messages: list[str] = []
    assert run(upgrading(outdated, [["dns"], ["dns"]], 60, messages).operation(), outdated.keys)
    assert messages == ["smoke test failed: dns"] * 2


def test_another_version_than_the_target_ends_it(outdated: FakeCluster) -> None:
    found = upgrading(outdated)
    found.deploy = lambda _nodes, **_: None
    with pytest.raises(SmallkubeError, match=r"the API server runs v1\.34\.2, not 1\.35; does NixOS"):
        run(found.operation(), outdated.keys)


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


def test_one_node_alone() -> None:
    assert len(make(inventory(nodes=1), facts(1, OLD, OLD), 1).stages) == 1


def test_a_resumed_upgrade_takes_no_backup() -> None:
    assert [each.back_up for each in make(inventory(), facts(2, NEW, NEW, OLD), 1).minors] == [False]
    assert [each.back_up for each in make(inventory(), facts(2, NEW, NEW, NEW), 1).minors] == [True]
    assert [each.back_up for each in make(inventory("1.34"), facts(2, OLD, OLD, OLD), 1).minors] == [True]
    assert [each.back_up for each in make(inventory("1.36"), facts(2, NEW, NEW, OLD), 1).minors] == [False, True]


@pytest.mark.parametrize(
    ("kubernetes", "found", "reason"),
    [
        ("1.34", facts(2, NEW, NEW, NEW), "no rollback"),
        ("1.35", facts(2, OLD, OLD, NEW), "the primary comes first"),
    ],
)
def test_what_the_guard_forbids_does_not_begin(kubernetes: str, found: Facts[Readiness], reason: str) -> None:
    with pytest.raises(SmallkubeError, match=reason):
        make(inventory(kubernetes), found, 1)


def test_the_rollback_hint_names_nodes_and_the_backup() -> None:
    whole = inventory(nodes=3)
    assert "inv deploy.rollback --node node1, then" in how_to_roll_back([whole.primary], "b1")
    assert "inv etcd.restore --name b1" in how_to_roll_back([whole.primary], "b1")
    assert "--name NAME" in how_to_roll_back([whole.primary], "")
    workers = how_to_roll_back(whole.workers, "b1")
    assert workers.endswith("inv deploy.rollback --node node2 --node node3")
