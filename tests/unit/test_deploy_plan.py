"""Proves what a deploy of each goal consists of, in which order nodes come, and what is refused beforehand."""

import pytest

from smallkube.core.errors import ErrorGroup, UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy import plan
from smallkube.deploy.plan import STEPS, Goal, Options, Step
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory, Node
from smallkube.secrets import policy
from smallkube.secrets.proof import Finding, Proof, State


def node(index: int) -> Node:
    return Node(name=f"node{index}", index=index, peer_ip=f"192.168.0.{index}")


NODES = [node(index) for index in range(1, 5)]


@pytest.mark.parametrize("goal", list(Goal))
def test_steps_come_in_one_order(goal: Goal) -> None:
    order = list(Step)
    steps = STEPS[goal]
    assert list(steps) == sorted(steps, key=order.index)
    assert steps[:2] == (Step.CONNECT, Step.PREFLIGHT)


@pytest.mark.parametrize("goal", list(Goal))
def test_nothing_is_activated_that_is_not_armed_before_and_confirmed_after(goal: Goal) -> None:
    steps = STEPS[goal]
    if Step.ACTIVATE in steps:
        at = steps.index(Step.ACTIVATE)
        assert Step.ARM in steps[:at]
        assert Step.CONFIRM in steps[at:]
        assert Step.COMMIT not in steps[: steps.index(Step.CONFIRM)]


def test_what_each_goal_reaches() -> None:
    activated = {goal for goal in Goal if Step.ACTIVATE in STEPS[goal]}
    booted = {goal for goal in Goal if Step.COMMIT in STEPS[goal]}
    assert activated == {Goal.SWITCH, Goal.TEST}
    assert booted == {Goal.SWITCH, Goal.BOOT}
    assert {goal for goal in Goal if Step.RECORD in STEPS[goal]} == activated | booted


def test_the_primary_goes_first_and_each_deploy_has_a_name() -> None:
    made = plan.make(NODES, "d" * 64, Goal.SWITCH, Options(batch=2))
    assert [[each.index for each in stage] for stage in made.stages] == [[1], [2, 3], [4]]
    assert [each.index for each in made.nodes] == [1, 2, 3, 4]
    assert made.nonce != plan.make(NODES, "d" * 64, Goal.SWITCH).nonce


@pytest.mark.parametrize("seconds", [-1, 0, 9, 3601])
def test_a_confirm_timeout_out_of_reason_is_refused(seconds: int) -> None:
    with pytest.raises(UsageError, match=f"--confirm-timeout {seconds}: must be from 10 to 3600 seconds"):
        Options(confirm_seconds=seconds)


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_of_nobody_is_refused(batch: int) -> None:
    with pytest.raises(UsageError, match=f"--batch {batch}: must be at least 1"):
        Options(batch=batch)


def test_without_a_rollback_nothing_else_is_left_out() -> None:
    kept, without = (plan.make(NODES, "d", Goal.SWITCH, Options(rollback=rollback)).steps for rollback in (True, False))
    assert [step for step in kept if step not in without] == [Step.ARM]


@pytest.mark.parametrize("goal", list(Goal))
def test_where_it_is_built_changes_only_the_build(goal: Goal) -> None:
    there, here = (
        plan.make(NODES, "d", goal, Options(build_on=plan.parse_build_on(where))).steps for where in ("target", "local")
    )
    at = there.index(Step.BUILD)
    assert here == (*there[:at], Step.BUILD_HERE, Step.COPY, *there[at + 1 :])


def test_going_back_builds_nowhere() -> None:
    steps = set(plan.back(NODES, "", Options()).steps)
    assert not steps & {Step.BUILD, Step.BUILD_HERE, Step.COPY, Step.PUSH}


def test_places_to_build_are_known_by_name() -> None:
    with pytest.raises(UsageError, match="--build-on 'here': not a place to build; say target or local"):
        plan.parse_build_on("here")


def test_goals_are_known_by_name() -> None:
    assert [plan.parse_goal(str(goal)) for goal in Goal] == list(Goal)
    with pytest.raises(UsageError, match="no goal 'swich'; the goals are switch, boot, test, dry-activate, build"):
        plan.parse_goal("swich")


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


def test_every_secret_that_could_not_be_read_is_told_with_its_command(inventory: Inventory) -> None:
    bad = next(state for state in State if state not in (State.GOOD, State.MISSING))
    with pytest.raises(ErrorGroup) as refused:
        plan.check_secrets(inventory.nodes, findings(inventory, wgkube1=State.MISSING, wgkube2=bad))
    assert refused.value.exit_status == 2
    assert str(refused.value).splitlines() == [
        "keys/wgkube1.key.age: some fault (node1 must be able to read it); nothing was sent; run `inv keys.generate`",
        "keys/wgkube2.key.age: some fault (node2 must be able to read it); nothing was sent; run `inv keys.rekey`",
    ]


def test_what_is_not_rendered_is_not_deployed(inventory: Inventory) -> None:
    plan.unrendered(inventory, [])
    with pytest.raises(UsageError, match=r"a, b, c and 2 more; run `inv nix\.render`"):
        plan.unrendered(inventory, list("abcde"))
