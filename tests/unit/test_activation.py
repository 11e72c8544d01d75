"""Verifies the outcome of an activation, with a fake machine that has its own time, makes its own decision, and loses
connections at any point.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.activation import GRACE_SECONDS, Activation, Barrier, Verdict
from smallkube.deploy.facts import DeployFacts
from smallkube.remote.fleet import NodeOutcome
from smallkube.remote.host import Command, Host, Result

OLD, NEW = "/nix/store/old", "/nix/store/new"
SECONDS = 100
BEFORE = DeployFacts(OLD, (), OLD, "1", True, True, "", 0, 1 << 30, 1 << 30, frozenset(), ())


@dataclass
class Machine:
    """What a machine does: activates in ``takes`` seconds, rolls back by itself, restarts at ``restarts``."""

    takes: float = 5
    answers_in: float = 0
    status: int = 0
    rollback_takes: float = 3
    rollback_status: int = 0
    rollback_fails: bool = False
    failed: str = ""
    away: Callable[[float], bool] = lambda _: False
    breaks: set[str] = field(default_factory=set)
    restarts: float | None = None
    time: float = 0
    due: float | None = None
    began: float | None = None
    holds: bool = False
    peer: "Machine | None" = None
    decision: str = ""
    decided: float = 0
    did: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if self.due is not None and self.time >= self.due and not self.restarted:
            self.decide("rolled back")

    @property
    def restarted(self) -> bool:
        return self.restarts is not None and self.time >= self.restarts

    def decide(self, decision: str) -> bool:
        if self.decision:
            return False
        self.decision, self.decided = decision, self.time
        return True

    @property
    def ended(self) -> bool:
        return self.began is not None and self.time >= self.began + self.takes and not self.holds

    @property
    def back(self) -> bool:
        return self.decision == "rolled back" and self.time >= self.decided + self.rollback_takes

    @property
    def system(self) -> str:
        went_back = self.restarted or (self.back and not self.rollback_fails)
        return OLD if went_back or not self.ended else NEW

    def run(self, name: str) -> Result:
        self.did.append(name)
        match name:
            case "arm":
                self.due = self.time + SECONDS
            case "activate":
                self.began = self.time
            case "release":
                assert self.peer is None or self.peer.began is not None
                self.holds = False
            case "trigger-rollback":
                self.decide("rolled back")
            case "confirm":
                if self.restarted or not self.decide("confirmed"):
                    return Result(3, b"", "too late\n")
            case "progress":
                self.sleep(self.answers_in)
                return Result(0, self.progress().encode(), "")
        return Result(0, b"", "")

    def progress(self) -> str:
        begun = not self.restarted
        return json.dumps(
            {
                "begun": begun,
                "status": self.status if begun and self.ended else None,
                "outcome": self.decision if begun else "",
                "rollback_status": self.rollback_status if begun and self.back else None,
                "system": self.system,
                "failed": self.failed.split(),
                "log": "the log" if begun else "",
                "held": begun and self.holds,
                "clock": 1_000_000_000_000,
            }
        )


@dataclass
class FakeConnection:
    """A connection to ``machine``; what is in ``machine.breaks`` is done, but the answer is lost."""

    machine: Machine
    alive: bool = False
    where: str = "node2"

    def __enter__(self) -> "FakeConnection":
        if self.machine.away(self.machine.time):
            raise SmallkubeError("can't be reached: no route")
        self.alive = True
        return self

    def close(self, *_: object) -> None:
        self.alive = False

    __exit__ = close

    def run(self, command: Command, **_: Any) -> Result:
        if not self.alive or self.machine.away(self.machine.time):
            raise SmallkubeError(f"connection lost while {command.name} ran")
        result = self.machine.run(command.name)
        if command.name in self.machine.breaks:
            self.machine.breaks.discard(command.name)
            self.alive = False
            raise SmallkubeError(f"connection lost while {command.name} ran")
        return result

    def run_checked(self, command: Command, **more: Any) -> Result:
        result = self.run(command, **more)
        assert result.ok
        return result


def deploy(
    machine: Machine,
    stopped: Callable[[], bool] = lambda: False,
    *,
    armed: bool = True,
    node: str = "",
    barrier: Barrier | None = None,
) -> Verdict:
    activation = Activation(
        connect=lambda: cast(Host, FakeConnection(machine)),
        nonce="n",
        system=NEW,
        before=BEFORE,
        seconds=SECONDS,
        node=node,
        barrier=barrier or Barrier(),
        stopped=stopped,
        now=machine.now,
        sleep=machine.sleep,
    )
    host = cast(Host, FakeConnection(machine, alive=True))
    if armed:
        activation.arm(host)
    activation.activate(host)
    return activation.confirm()


def test_machines_are_released_together_and_only_once() -> None:
    one, two = Machine(holds=True), Machine(holds=True)
    one.peer, two.peer = two, one
    barrier = Barrier(["node1", "node2"])
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(
            pool.map(lambda at: deploy(at[1], node=at[0], barrier=barrier), (("node1", one), ("node2", two)))
        )
    assert verdicts == [Verdict(None, log="the log")] * 2
    assert [machine.did.count("release") for machine in (one, two)] == [1, 1]


def test_a_held_machine_does_not_wait_for_one_that_left() -> None:
    barrier, machine = Barrier(["node1", "node2"]), Machine(holds=True)
    barrier.leave("node2")
    assert deploy(machine, node="node1", barrier=barrier) == Verdict(None, log="the log")


def test_a_healthy_machine_is_confirmed() -> None:
    machine = Machine()
    assert deploy(machine) == Verdict(None, log="the log")
    assert (machine.did[:2], machine.did[-1]) == (["arm", "activate"], "confirm")
    assert machine.time < SECONDS


@pytest.mark.parametrize(("answers_in", "asked"), [(0, 302), (1, 30), (3, 8), (5, 5)])
def test_a_machine_is_busy_half_the_time_with_answers(answers_in: float, asked: int) -> None:
    """Of them it is to wait one second for the end."""
    machine = Machine(takes=30, answers_in=answers_in)
    assert deploy(machine).outcome is None
    assert machine.did.count("progress") == pytest.approx(asked, abs=1)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(status=4), "switch-to-configuration ended with status 4"),
        (Machine(failed="x.service"), "failed units: x.service"),
    ],
)
def test_an_unhealthy_machine_rolls_back_at_once(machine: Machine, reason: str) -> None:
    assert deploy(machine) == Verdict(NodeOutcome.ROLLED_BACK, reason, "the log")
    assert "trigger-rollback" in machine.did
    assert "confirm" not in machine.did
    assert machine.time < SECONDS


def test_a_hung_activation_is_rolled_back_by_the_machine() -> None:
    verdict = deploy(machine := Machine(takes=10_000))
    assert (verdict.outcome, verdict.reason) == (NodeOutcome.ROLLED_BACK, "the activation did not end in time")
    assert machine.time == pytest.approx(SECONDS, abs=10)


def test_a_machine_without_ssh_rolls_back_by_itself() -> None:
    verdict = deploy(machine := Machine(away=lambda time: 5 <= time < SECONDS + 2))
    assert verdict.outcome is NodeOutcome.ROLLED_BACK
    assert verdict.reason == "no new connection to it: can't be reached: no route"
    assert "confirm" not in machine.did


def test_a_short_loss_of_connection_does_not_roll_back() -> None:
    assert deploy(Machine(away=lambda time: 3 <= time < 40)).outcome is None


def test_an_unreachable_machine_is_unknown_with_its_rollback() -> None:
    machine = Machine(away=lambda time: time >= 5)
    verdict = deploy(machine)
    assert verdict.outcome is NodeOutcome.UNKNOWN
    assert f"its rollback to {OLD} was armed and was due {GRACE_SECONDS} s ago" in verdict.reason


def test_a_slow_rollback_is_waited_for() -> None:
    assert deploy(Machine(status=4, rollback_takes=GRACE_SECONDS + SECONDS + 100)).outcome is NodeOutcome.ROLLED_BACK


def test_a_rollback_that_never_ends_is_unknown() -> None:
    verdict = deploy(Machine(status=4, rollback_takes=100_000))
    assert verdict.outcome is NodeOutcome.UNKNOWN
    assert f"it began to roll back to {OLD}; the end was not observed" in verdict.reason


@pytest.mark.parametrize("machine", [Machine(status=4, rollback_fails=True), Machine(takes=1e6, rollback_status=1)])
def test_a_failed_rollback_is_unknown(machine: Machine) -> None:
    verdict = deploy(machine)
    assert verdict.outcome is NodeOutcome.UNKNOWN
    assert "the rollback failed" in verdict.reason


def test_a_rollback_with_errors_says_so() -> None:
    verdict = deploy(Machine(status=4, rollback_status=4))
    assert verdict.outcome is NodeOutcome.ROLLED_BACK
    assert verdict.reason.endswith("the rollback had errors (status 4)")


@pytest.mark.parametrize("at", [2, 7])
def test_a_restart_before_the_confirmation_is_a_rollback(at: float) -> None:
    machine = Machine(restarts=at, away=lambda time: max(0.1, at - 3) <= time < at + 20)
    verdict = deploy(machine)
    assert verdict.outcome is NodeOutcome.ROLLED_BACK
    assert "the machine was restarted before it was confirmed" in verdict.reason


@pytest.mark.parametrize("step", ["activate", "progress", "confirm", "trigger-rollback"])
@pytest.mark.parametrize("status", [0, 4])
def test_a_lost_answer_is_asked_for_again(step: str, status: int) -> None:
    machine = Machine(status=status, breaks={step})
    assert deploy(machine).outcome is (NodeOutcome.ROLLED_BACK if status else None)
    assert machine.did.count("activate") == 1


def test_a_lost_rollback_timer_ends_before_the_activation() -> None:
    machine = Machine(breaks={"arm"})
    with pytest.raises(SmallkubeError, match="connection lost while arm ran"):
        deploy(machine)
    assert "activate" not in machine.did


def test_an_interruption_rolls_back_at_once() -> None:
    machine = Machine(takes=10_000)
    verdict = deploy(machine, stopped=lambda: machine.time > 3)
    assert (verdict.outcome, verdict.reason) == (NodeOutcome.ROLLED_BACK, "interrupted")
    assert machine.time < 20


def test_an_interruption_while_unreachable_names_the_rollback() -> None:
    machine = Machine(away=lambda time: time >= 2)
    verdict = deploy(machine, stopped=lambda: machine.time > 10)
    assert verdict.outcome is NodeOutcome.UNKNOWN
    assert "was armed and fires in" in verdict.reason
    assert machine.time < 20


def test_without_rollback_an_unhealthy_machine_is_reported() -> None:
    machine = Machine(status=4)
    verdict = deploy(machine, armed=False)
    assert (verdict.outcome, verdict.reason) == (
        NodeOutcome.FAILED,
        "it runs the new system, automatic rollback was disabled: switch-to-configuration ended with status 4",
    )
    assert "trigger-rollback" not in machine.did


@pytest.mark.parametrize(
    ("machine", "seen"),
    [
        (Machine(away=lambda time: time >= 4), f"the machine last ran {OLD}"),
        (Machine(takes=1e6), f"the machine last ran {OLD}"),
        (Machine(away=lambda time: time > 0, breaks={"activate"}), "the machine has not been reached since"),
    ],
)
def test_a_disabled_rollback_is_not_reported_as_armed(machine: Machine, seen: str) -> None:
    verdict = deploy(machine, armed=False)
    assert verdict.outcome is NodeOutcome.UNKNOWN
    assert verdict.reason.endswith(f"automatic rollback was disabled; {seen}")


@settings(max_examples=300)
@given(
    takes=st.floats(0, 150),
    status=st.sampled_from([0, 0, 4]),
    gap=st.tuples(st.floats(0, 200), st.floats(0, 120)),
    breaks=st.sets(st.sampled_from(["activate", "progress", "confirm", "trigger-rollback"])),
    stop=st.none() | st.floats(0, 150),
)
def test_the_verdict_is_what_the_machine_does(
    takes: float, status: int, gap: tuple[float, float], breaks: set[str], stop: float | None
) -> None:
    began, length = gap
    machine = Machine(takes=takes, status=status, breaks=set(breaks), away=lambda time: began < time < began + length)
    verdict = deploy(machine, stopped=lambda: stop is not None and machine.time >= stop)
    machine.sleep(SECONDS + 100)
    if verdict.outcome is None:
        assert (machine.decision, machine.system, status) == ("confirmed", NEW, 0)
    elif verdict.outcome is NodeOutcome.ROLLED_BACK:
        assert (machine.decision, machine.system) == ("rolled back", OLD)
    assert machine.decision == "rolled back" or status == 0
