"""Proves the rolling reboot against a cluster that exists only here: the order of machines and of steps, what counts as
back and as Ready, who is uncordoned again, and where a fault ends it.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.kube import members
from smallkube.operations import reboot
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.fleet import NodeOutcome, Report
from smallkube.remote.host import Host
from tests.unit.world import Computer, Member, Silent, World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(reboot, "POLL_SECONDS", 0.001)
    return World()


def run(world: World, workspace: Workspace, *names: str, seconds: float = 20) -> tuple[Report, ...]:
    down = members.api_down(world.inventory, world.connect)
    made = reboot.make(world.inventory.select(names), down, 20, 300)
    plan = replace(made, return_seconds=seconds)  # type: ignore[arg-type]
    return reboot.execute(plan, world.inventory, workspace, world.connect, Silent())


def outcomes(reports: tuple[Report, ...]) -> list[tuple[str, str]]:
    return [(report.node, report.outcome) for report in reports]


def test_workers_by_index_then_the_primary(world: World, workspace: Workspace) -> None:
    reports = run(world, workspace)
    assert world.done == ["restart node2", "restart node10", "restart node1"]
    assert {report.outcome for report in reports} == {NodeOutcome.REBOOTED}


def test_a_member_is_drained_before_and_uncordoned_after(world: World, workspace: Workspace) -> None:
    world.join()
    assert outcomes(run(world, workspace, "node2")) == [("node2", "rebooted")]
    host = "node2.k8s.internal"
    assert world.done == [
        f"{host} {members.MARK}=reboot",
        f"drain {host}",
        "restart node2",
        f"uncordon {host}",
        f"{host} {members.MARK}-",
    ]


def test_a_node_that_a_person_cordoned_stays_so(world: World, workspace: Workspace) -> None:
    world.join()
    world.members["node2.k8s.internal"].cordoned = True
    (report,) = run(world, workspace, "node2")
    assert (report.outcome, report.reason) == (NodeOutcome.REBOOTED, "stays cordoned, as it was before")
    assert world.members["node2.k8s.internal"].cordoned


def test_a_node_left_cordoned_by_a_killed_run_is_admitted_again(world: World, workspace: Workspace) -> None:
    world.join()
    world.members["node2.k8s.internal"] = Member(cordoned=True, marked=True)
    (report,) = run(world, workspace, "node2")
    assert (report.outcome, report.reason) == (NodeOutcome.REBOOTED, "")
    assert world.members["node2.k8s.internal"] == Member()


def test_a_machine_outside_the_cluster_is_named_so(world: World, workspace: Workspace) -> None:
    world.join()
    del world.members["node2.k8s.internal"]
    (report,) = run(world, workspace, "node2")
    assert (report.outcome, report.reason) == (NodeOutcome.REBOOTED, "not a member of the cluster, so not drained")


def test_it_waits_through_refusals_starts_and_stale_reports(world: World, workspace: Workspace) -> None:
    world.join()
    world.computers["node2"] = Computer(refusals=3, starting=2)
    world.members["node2.k8s.internal"].stale = 3
    assert outcomes(run(world, workspace, "node2")) == [("node2", "rebooted")]
    assert (world.computers["node2"].refusals, world.computers["node2"].starting) == (0, 0)
    assert world.members["node2.k8s.internal"].stale == 0


@pytest.mark.parametrize(
    ("computer", "reason"),
    [
        (Computer(restarts=False), "it has not restarted"),
        (Computer(refusals=10**9), "connection refused"),
        (Computer(starting=10**9), "it has restarted, and systemd says starting"),
    ],
)
def test_a_node_that_stays_away_is_unknown_and_the_last(
    world: World, workspace: Workspace, computer: Computer, reason: str
) -> None:
    world.computers["node2"] = computer
    reports = run(world, workspace, seconds=0.1)
    assert outcomes(reports) == [("node2", "unknown"), ("node10", "not run"), ("node1", "not run")]
    assert reports[0].reason == f"not back after 0.1 s: {reason}"
    assert reports[1].reason == "an earlier node failed"


def test_only_newly_failed_units_end_the_reboot(world: World, workspace: Workspace) -> None:
    world.join()
    world.computers["node2"] = Computer(failed=["old.service"])
    world.computers["node10"] = Computer(failed=["old.service"], fails_later=["new.service"])
    reports = run(world, workspace)
    assert outcomes(reports) == [("node2", "rebooted"), ("node10", "failed"), ("node1", "not run")]
    assert reports[1].reason == (
        "it is back, but these units failed: new.service; it stays cordoned: inv nodes.uncordon --node node10"
    )


def test_a_kubelet_that_does_not_report_leaves_the_node_cordoned(world: World, workspace: Workspace) -> None:
    world.join()
    world.members["node2.k8s.internal"].stale = 10**9
    (report,) = run(world, workspace, "node2", seconds=0.1)
    assert report.outcome is NodeOutcome.UNKNOWN
    assert "its kubelet has not reported Ready; it stays cordoned" in report.reason
    assert world.members["node2.k8s.internal"].cordoned


def test_a_node_that_can_not_be_drained_is_not_restarted(world: World, workspace: Workspace) -> None:
    world.join()
    world.drain_error = (
        "node/x cordoned\nerror: cannot delete Pods that declare no controller\nThere are pending nodes\n"
    )
    reports = run(world, workspace, "node2", "node10")
    assert outcomes(reports) == [("node2", "failed"), ("node10", "not run")]
    assert reports[0].reason == "can't be drained: cannot delete Pods that declare no controller"
    assert world.members["node2.k8s.internal"] == Member()
    assert not any(step.startswith("restart") for step in world.done)


def test_a_machine_being_deployed_to_is_left_alone(world: World, workspace: Workspace) -> None:
    world.computers["node2"].deploy = "ann@laptop since 12:00:00 UTC\n"
    (report,) = run(world, workspace, "node2")
    assert report.outcome is NodeOutcome.FAILED
    assert "ann@laptop" in report.reason
    assert world.done == []


def test_interrupted_while_draining_admits_it_again(world: World, workspace: Workspace) -> None:
    world.join()
    stop = threading.Event()
    world.on_drain = stop.set
    node = world.inventory.node("node2")
    plan = reboot.Plan((node,), "", 20, 300)
    with pytest.raises(SmallkubeError, match="interrupted before it was restarted"):
        reboot.NodeReboot(node, plan, world.inventory, world.connect, Silent(), stop).execute()
    assert world.members["node2.k8s.internal"] == Member()
    assert not any(step.startswith("restart") for step in world.done)


@pytest.mark.parametrize("state", ["inactive", "activating", "failed"])
def test_without_the_api_server_nothing_is_drained(world: World, workspace: Workspace, state: str) -> None:
    world.join()
    world.api = state
    assert members.api_down(world.inventory, world.connect) == f"kube-apiserver.service on node1 is {state}"
    assert outcomes(run(world, workspace, "node2")) == [("node2", "rebooted")]
    assert world.done == ["restart node2"]


def change(world: World, outcome: NodeOutcome, *names: str) -> tuple[Report, ...]:
    act: Callable[[Host, str], None] = members.uncordon
    if outcome is NodeOutcome.DRAINED:
        act = lambda primary, host: members.drain(primary, host, 300)  # noqa: E731
    nodes = world.inventory.select(names)
    return members.change(world.inventory, nodes, world.connect, act, outcome, Silent(), threading.Event())


def test_drain_and_uncordon_by_hand(world: World) -> None:
    with pytest.raises(SmallkubeError, match=r"kube-apiserver\.service on node1 is inactive"):
        change(world, NodeOutcome.DRAINED, "node2")
    world.join()
    assert outcomes(change(world, NodeOutcome.DRAINED, "node2")) == [("node2", "drained")]
    assert world.members["node2.k8s.internal"] == Member(cordoned=True, marked=False)
    assert outcomes(change(world, NodeOutcome.UNCORDONED, "node2")) == [("node2", "uncordoned")]
    assert world.members["node2.k8s.internal"] == Member()


def test_a_drain_that_fails_is_the_last(world: World) -> None:
    world.join()
    world.drain_error = "error: no\n"
    assert outcomes(change(world, NodeOutcome.DRAINED, "node2", "node10")) == [
        ("node2", "failed"),
        ("node10", "not run"),
    ]


@pytest.mark.parametrize("text", ["[]", "{}", '{"metadata": {}, "spec": null, "status": {}}', "Error"])
def test_an_answer_that_is_no_node_is_an_error(world: World, text: str) -> None:
    primary = FakeHost(world.inventory.primary, lambda _: reply(text))
    with pytest.raises(SmallkubeError, match="not a Node"):
        members.member(primary, "node1.k8s.internal")
