"""Verifies the steps of a deploy for each goal, the order of the nodes, and what is refused beforehand."""

from typing import Any

import pytest

from smallkube.core.errors import ErrorGroup, UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy import plan, preflight
from smallkube.deploy.node import steps
from smallkube.deploy.plan import BuildOn, Goal, Options, choose
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory, Node
from smallkube.nix.bundle import Bundle
from smallkube.secrets import policy
from smallkube.secrets.recipients import Finding, Proof, State


def node(index: int) -> Node:
    return Node(name=f"node{index}", index=index, peer_ip=f"192.168.0.{index}")


BUNDLE = Bundle({})
NODES = [node(index) for index in range(1, 5)]


def titles(goal: Goal, **options: Any) -> list[str]:
    return [step.title for step in steps(plan.make(NODES, BUNDLE, goal, Options(**options)))]


@pytest.mark.parametrize("goal", list(Goal))
def test_nothing_is_activated_unarmed_or_committed_unconfirmed(goal: Goal) -> None:
    found = titles(goal)
    assert found[:2] == ["connect", "preflight"]
    if "activate" in found:
        at = found.index("activate")
        assert "arm the rollback" in found[:at]
        assert "confirm over a new connection" in found[at:]
        assert "commit" not in found[: found.index("confirm over a new connection")]


@pytest.mark.parametrize("goal", list(Goal))
def test_a_deploy_may_stop_until_it_activates_or_commits(goal: Goal) -> None:
    found = [(step.title, step.interruptible) for step in steps(plan.make(NODES, BUNDLE, goal))]
    at = next((number for number, (title, _) in enumerate(found) if title in ("activate", "commit")), len(found))
    assert [interruptible for _, interruptible in found] == [True] * at + [False] * (len(found) - at)


def test_what_each_goal_reaches() -> None:
    activated = {goal for goal in Goal if "activate" in titles(goal)}
    booted = {goal for goal in Goal if "commit" in titles(goal)}
    assert activated == {Goal.SWITCH, Goal.TEST}
    assert booted == {Goal.SWITCH, Goal.BOOT}
    assert {goal for goal in Goal if "record" in titles(goal)} == activated | booted


def test_the_primary_goes_first_and_each_deploy_has_a_name() -> None:
    made = plan.make(NODES, BUNDLE, Goal.SWITCH, Options(batch=2))
    assert [[each.index for each in stage] for stage in made.stages] == [[1], [2, 3], [4]]
    assert [each.index for each in made.nodes] == [1, 2, 3, 4]
    assert made.nonce != plan.make(NODES, BUNDLE, Goal.SWITCH).nonce


@pytest.mark.parametrize(
    ("options", "omitted"),
    [({"rollback": False}, ["arm the rollback"]), ({"drain": False}, ["drain if it is a member", "uncordon"])],
)
def test_an_option_omits_its_own_steps_only(options: dict[str, Any], omitted: list[str]) -> None:
    without = titles(Goal.SWITCH, **options)
    assert [title for title in titles(Goal.SWITCH) if title not in without] == omitted


def test_a_change_of_the_peers_is_deployed_in_lockstep() -> None:
    made = plan.make(NODES, BUNDLE, Goal.SWITCH, Options(batch=1), new_peers=True, left_out=("node9",))
    assert (made.lockstep, made.stages, made.left_out) == (True, (tuple(NODES),), ("node9",))
    assert "uncordon" not in [step.title for step in steps(made)]


@pytest.mark.parametrize("goal", list(Goal))
def test_where_it_is_built_changes_only_the_build(goal: Goal) -> None:
    there, here = titles(goal), titles(goal, build_on=BuildOn.LOCAL)
    at = there.index("build")
    assert here == [*there[:at], "build locally", "copy the closure", *there[at + 1 :]]


def test_a_rollback_finds_a_generation_and_builds_nothing() -> None:
    found = [step.title for step in steps(plan.rollback(NODES, "", Options()))]
    assert "find the generation" in found
    assert not {"build", "build locally", "copy the closure", "push the configuration"} & set(found)


def test_goals_and_places_to_build_are_known_by_name() -> None:
    assert [choose(Goal, "goal", str(goal)) for goal in Goal] == list(Goal)
    with pytest.raises(UsageError, match="--goal 'swich': unknown; pass one of switch, boot, test, dry-act"):
        choose(Goal, "goal", "swich")
    with pytest.raises(UsageError, match="--build-on 'here': unknown; pass one of target, local"):
        choose(BuildOn, "build-on", "here")


@pytest.fixture
def inventory(workspace: Workspace) -> Inventory:
    return load(workspace.inventory_file)


PROOF = next(iter(Proof))


def findings(inventory: Inventory, **states: State) -> list[Finding]:
    found = []
    for secret in policy.expected(inventory, frozenset()):
        state = states.get(secret.file.partition(".")[0], State.GOOD)
        found.append(Finding(secret, state, PROOF, () if state is State.GOOD else ("some fault",)))
    return found


def test_good_secrets_let_a_deploy_through(inventory: Inventory) -> None:
    plan.check_secrets(inventory.nodes, findings(inventory))


def test_a_secret_that_another_node_reads_is_no_obstacle(inventory: Inventory) -> None:
    plan.check_secrets(inventory.nodes[:1], findings(inventory, wgkube2=State.MISSING))


def test_each_unreadable_secret_is_reported_with_its_command(inventory: Inventory) -> None:
    bad = next(state for state in State if state not in (State.GOOD, State.MISSING))
    with pytest.raises(ErrorGroup) as refused:
        plan.check_secrets(inventory.nodes, findings(inventory, wgkube1=State.MISSING, wgkube2=bad))
    assert refused.value.exit_status == 2
    assert str(refused.value).splitlines() == [
        "keys/wgkube1.key.age: some fault (node1 must be able to read it); nothing was sent; run `inv keys.generate`",
        "keys/wgkube2.key.age: some fault (node2 must be able to read it); nothing was sent; run `inv keys.rekey`",
    ]


def test_what_is_not_rendered_is_not_deployed(workspace: Workspace, inventory: Inventory) -> None:
    cluster = Cluster(workspace, inventory)
    preflight.check_rendered(cluster, [])
    with pytest.raises(UsageError, match=r"a, b, c and 2 more; run `inv nix\.render`"):
        preflight.check_rendered(cluster, [workspace.root / name for name in "abcde"])
