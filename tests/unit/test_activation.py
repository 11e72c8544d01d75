"""Proves how an activation is judged from what the machine says, with a machine that is acted here: it keeps its own
time, makes its own decision, and can be cut off at any point.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.activation import GRACE_SECONDS, Activation, Clock, Ending, Verdict
from smallkube.deploy.facts import HostFacts
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Host

OLD, NEW = "/nix/store/old", "/nix/store/new"
SECONDS = 100
BEFORE = HostFacts(True, True, "", 0, 1 << 30, 1 << 30, OLD, OLD, "1", "", frozenset(), ())


@dataclass
class Machine:
    """What a machine does: activates in ``takes`` seconds, goes back by itself, restarts at ``restarts``."""

    takes: float = 5
    status: int = 0
    going_back_takes: float = 3
    going_back_status: int = 0
    going_back_fails: bool = False
    failed: str = ""
    away: Callable[[float], bool] = lambda _: False
    breaks: set[str] = field(default_factory=set)
    restarts: float | None = None
    time: float = 0
    due: float | None = None
    began: float | None = None
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
        return self.began is not None and self.time >= self.began + self.takes

    @property
    def back(self) -> bool:
        return self.decision == "rolled back" and self.time >= self.decided + self.going_back_takes

    @property
    def system(self) -> str:
        went_back = self.restarted or (self.back and not self.going_back_fails)
        return OLD if went_back or not self.ended else NEW

    def run(self, name: str) -> Result:
        self.did.append(name)
        match name:
            case "arm":
                self.due = self.time + SECONDS
            case "activate":
                self.began = self.time
            case "give-up":
                self.decide("rolled back")
            case "decide":
                if self.restarted or not self.decide("confirmed"):
                    return Result(3, b"", "too late\n")
            case "progress":
                return Result(0, self.progress().encode(), "")
        return Result(0, b"", "")

    def progress(self) -> str:
        if self.restarted:
            return f"begun=no\nsystem={self.system}\n\n"
        status = self.status if self.ended else ""
        rollback = self.going_back_status if self.back else ""
        return (
            f"begun=yes\nstatus={status}\noutcome={self.decision}\nrollback={rollback}\n"
            f"system={self.system}\nfailed={self.failed}\n\nthe log"
        )


@dataclass
class FakeSession:
    """A connection to ``machine``; what is in ``machine.breaks`` is done, but the answer is lost."""

    machine: Machine
    alive: bool = False

    def __enter__(self) -> "FakeSession":
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


def deploy(machine: Machine, stopped: Callable[[], bool] = lambda: False, *, armed: bool = True) -> Verdict:
    activation = Activation(
        connect=lambda: cast(Host, FakeSession(machine)),
        nonce="n",
        system=NEW,
        before=BEFORE,
        seconds=SECONDS,
        stopped=stopped,
        clock=Clock(machine.now, machine.sleep),
    )
    session = cast(Host, FakeSession(machine, alive=True))
    if armed:
        activation.arm(session)
    activation.activate(session)
    return activation.confirm()


def test_a_well_machine_is_confirmed() -> None:
    machine = Machine()
    assert deploy(machine) == Verdict(Ending.CONFIRMED, log="the log")
    assert (machine.did[:2], machine.did[-1]) == (["arm", "activate"], "decide")
    assert machine.time < SECONDS


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(status=4), "switch-to-configuration ended with status 4"),
        (Machine(failed="x.service"), "failed units: x.service"),
    ],
)
def test_an_ill_machine_goes_back_at_once(machine: Machine, reason: str) -> None:
    assert deploy(machine) == Verdict(Ending.ROLLED_BACK, reason, "the log")
    assert "give-up" in machine.did
    assert "decide" not in machine.did
    assert machine.time < SECONDS


def test_a_hung_activation_is_rolled_back_by_the_machine() -> None:
    verdict = deploy(machine := Machine(takes=10_000))
    assert (verdict.ending, verdict.reason) == (Ending.ROLLED_BACK, "the activation did not end in time")
    assert machine.time == pytest.approx(SECONDS, abs=10)


def test_a_machine_that_lets_nobody_in_any_more_is_rolled_back_by_itself() -> None:
    verdict = deploy(machine := Machine(away=lambda time: 5 <= time < SECONDS + 2))
    assert verdict.ending is Ending.ROLLED_BACK
    assert verdict.reason == "no new connection to it: can't be reached: no route"
    assert "decide" not in machine.did


def test_a_connection_that_is_away_for_a_while_is_no_reason_to_go_back() -> None:
    assert deploy(Machine(away=lambda time: 3 <= time < 40)).ending is Ending.CONFIRMED


def test_a_machine_that_stays_away_is_unknown_with_what_is_armed() -> None:
    machine = Machine(away=lambda time: time >= 5)
    verdict = deploy(machine)
    assert verdict.ending is Ending.UNKNOWN
    assert f"its rollback to {OLD} was armed and was due {GRACE_SECONDS} s ago" in verdict.reason


def test_a_rollback_that_takes_long_is_waited_for() -> None:
    assert deploy(Machine(status=4, going_back_takes=GRACE_SECONDS + SECONDS + 100)).ending is Ending.ROLLED_BACK


def test_a_rollback_that_never_ends_is_unknown_as_what_it_is() -> None:
    verdict = deploy(Machine(status=4, going_back_takes=100_000))
    assert verdict.ending is Ending.UNKNOWN
    assert f"it began to go back to {OLD} and was not seen to end" in verdict.reason


@pytest.mark.parametrize("machine", [Machine(status=4, going_back_fails=True), Machine(takes=1e6, going_back_status=1)])
def test_a_rollback_that_failed_is_not_called_one(machine: Machine) -> None:
    verdict = deploy(machine)
    assert verdict.ending is Ending.UNKNOWN
    assert "going back failed" in verdict.reason


def test_a_rollback_with_errors_says_so() -> None:
    verdict = deploy(Machine(status=4, going_back_status=4))
    assert verdict.ending is Ending.ROLLED_BACK
    assert verdict.reason.endswith("going back had errors (status 4)")


@pytest.mark.parametrize("at", [2, 7])
def test_a_machine_that_restarts_before_it_was_confirmed_is_back(at: float) -> None:
    machine = Machine(restarts=at, away=lambda time: max(0.1, at - 3) <= time < at + 20)
    verdict = deploy(machine)
    assert verdict.ending is Ending.ROLLED_BACK
    assert "the machine was restarted before it was confirmed" in verdict.reason


@pytest.mark.parametrize("step", ["activate", "progress", "decide", "give-up"])
@pytest.mark.parametrize("status", [0, 4])
def test_an_answer_that_is_lost_is_asked_for_again(step: str, status: int) -> None:
    machine = Machine(status=status, breaks={step})
    assert deploy(machine).ending is (Ending.ROLLED_BACK if status else Ending.CONFIRMED)
    assert machine.did.count("activate") == 1


def test_a_lost_arm_ends_before_anything_is_activated() -> None:
    machine = Machine(breaks={"arm"})
    with pytest.raises(SmallkubeError, match="connection lost while arm ran"):
        deploy(machine)
    assert "activate" not in machine.did


def test_an_interruption_has_the_machine_go_back_without_waiting_for_the_activation() -> None:
    machine = Machine(takes=10_000)
    verdict = deploy(machine, stopped=lambda: machine.time > 3)
    assert (verdict.ending, verdict.reason) == (Ending.ROLLED_BACK, "interrupted")
    assert machine.time < 20


def test_an_interruption_while_the_machine_is_away_says_what_is_armed() -> None:
    machine = Machine(away=lambda time: time >= 2)
    verdict = deploy(machine, stopped=lambda: machine.time > 10)
    assert verdict.ending is Ending.UNKNOWN
    assert "was armed and fires in" in verdict.reason
    assert machine.time < 20


def test_without_a_rollback_an_ill_machine_stays_as_it_is_and_is_told() -> None:
    machine = Machine(status=4)
    verdict = deploy(machine, armed=False)
    assert (verdict.ending, verdict.reason) == (Ending.UNHEALTHY, "switch-to-configuration ended with status 4")
    assert "give-up" not in machine.did


@pytest.mark.parametrize(
    ("machine", "seen"),
    [
        (Machine(away=lambda time: time >= 4), f"the machine was last seen with {OLD}"),
        (Machine(takes=1e6), f"the machine was last seen with {OLD}"),
        (Machine(away=lambda time: time > 0, breaks={"activate"}), "the machine has not been seen since"),
    ],
)
def test_what_was_not_armed_is_not_said_to_be(machine: Machine, seen: str) -> None:
    verdict = deploy(machine, armed=False)
    assert verdict.ending is Ending.UNKNOWN
    assert verdict.reason.endswith(f"no rollback was armed; {seen}")


@settings(max_examples=300)
@given(
    takes=st.floats(0, 150),
    status=st.sampled_from([0, 0, 4]),
    gap=st.tuples(st.floats(0, 200), st.floats(0, 120)),
    breaks=st.sets(st.sampled_from(["activate", "progress", "decide", "give-up"])),
    stop=st.none() | st.floats(0, 150),
)
def test_the_verdict_is_never_other_than_what_the_machine_does(
    takes: float, status: int, gap: tuple[float, float], breaks: set[str], stop: float | None
) -> None:
    began, length = gap
    machine = Machine(takes=takes, status=status, breaks=set(breaks), away=lambda time: began < time < began + length)
    verdict = deploy(machine, stopped=lambda: stop is not None and machine.time >= stop)
    machine.sleep(SECONDS + 100)
    if verdict.ending is Ending.CONFIRMED:
        assert (machine.decision, machine.system, status) == ("confirmed", NEW, 0)
    elif verdict.ending is Ending.ROLLED_BACK:
        assert (machine.decision, machine.system) == ("rolled back", OLD)
    assert machine.decision == "rolled back" or status == 0
