"""Arm the rollback, activate, confirm or roll back: the part of a deploy in which the connection may be lost.

The machine decides: the first that creates /run/smallkube/NONCE/decision, its timer or this process, has decided.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

from smallkube.core import polling
from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks, facts
from smallkube.deploy.facts import SCRIPTS, DeployFacts, Progress
from smallkube.remote.fleet import NodeOutcome
from smallkube.remote.host import Command, Host

POLL_SECONDS = 0.1
FOLLOW_TENTHS = 10
"""The machine answers at once when the activation has ended, else after so many tenths of a second: to ask it ten times
as often would take processor time from what it starts."""
RECONNECT_SECONDS = 0.5
BARRIER_SECONDS = 1.0
GRACE_SECONDS = 60
"""How long after the rollback was due an unreachable machine is still asked for the outcome."""
ROLLBACK_SECONDS = 600
"""The same for a machine that is known to be rolling back."""
RELEASE_MICROSECONDS = 2_000_000
"""Until held machines go on: time to reach them all."""
ARM_SECONDS = 120
"""A machine that is still starting is waited for, a minute at most."""
TOO_LATE = "the activation did not end in time"
NOT_STARTED = 1
"""Exit status of a switch-to-configuration that did nothing."""

T = TypeVar("T")


def script(verb: str, *arguments: str, timeout: float = 60.0) -> Command:
    """A subcommand of ``scripts/activation.sh`` on a machine that has the scripts."""
    return SCRIPTS.pushed("activation", verb, *arguments, title=verb, timeout=timeout)


class SyncPoint(IntEnum):
    """Where the members wait for each other."""

    PREPARED = 1
    HELD = 2
    ACTIVATED = 3
    CHECKED = 4


class Barrier:
    """The members (node names) of one lockstep deploy: none continues from a sync point before all have reached it.

    A change of peers.json concerns every node: the tunnel between two is down while only one has the new version. So a
    machine that activates holds it back (nix/modules/wireguard.nix) until all have got as far. Other nodes never wait.
    Safe to use from several threads.
    """

    def __init__(self, members: Collection[str] = ()) -> None:
        self._reached: dict[str, int] = dict.fromkeys(members, 0)
        self._faults: dict[str, str] = {}
        self._met: dict[int, int] = {}
        self._changed = threading.Condition()

    def __bool__(self) -> bool:
        """Whether anyone waits here."""
        return bool(self._reached)

    def wait(self, member: str, point: SyncPoint, fault: str, late: Callable[[], bool]) -> str:
        """Wait until all others have reached ``point`` too, or have left.

        ``fault`` is why this member must not continue, "" when it can; returned is why the others must not. ``late``
        becomes true when it is too late to wait.
        """
        if member not in self._reached:
            return ""
        with self._changed:
            self._report(member, point, fault)
            while behind := sorted(name for name, reached in self._reached.items() if reached < point):
                if late():
                    return f"{', '.join(behind)} did not get this far in time"
                self._changed.wait(BARRIER_SECONDS)
            others = sorted(name for name in self._faults if name != member)
            return f"lockstep deploy aborted: {', '.join(others)} failed" if others else ""

    def met(self, point: SyncPoint, moment: int) -> int:
        """The ``moment`` of the member that was the first to continue from ``point``."""
        with self._changed:
            return self._met.setdefault(point, moment)

    def leave(self, member: str, fault: str = "") -> None:
        """``member`` takes part no longer; the others don't wait for it."""
        if member in self._reached:
            with self._changed:
                self._report(member, max(SyncPoint), fault)

    def _report(self, member: str, point: int, fault: str) -> None:
        self._reached[member] = max(self._reached[member], point)
        if fault:
            self._faults.setdefault(member, fault)
        self._changed.notify_all()


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is None when the new system was confirmed; ``reason`` says why not, or what is known."""

    outcome: NodeOutcome | None
    reason: str = ""
    log: str = ""


@dataclass
class Activation:
    """One activation of ``system`` on ``node``. ``connect`` makes a new connection each time.

    ``examine`` checks the health of the new system and returns its faults. ``barrier``: of a lockstep deploy.
    """

    connect: Callable[[], AbstractContextManager[Host]]
    nonce: str
    system: str
    before: DeployFacts
    seconds: int
    node: str = ""
    barrier: Barrier = field(default_factory=Barrier)
    stopped: Callable[[], bool] = lambda: False
    examine: Callable[[Host], Sequence[str]] = lambda _: ()
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    failed_units: Sequence[str] = ()
    _armed: bool = False
    _released: bool = False
    _due: float = 0.0
    _last: Progress | None = None
    _took: float = 0.0
    _lost: str = ""

    def arm(self, host: Host) -> None:
        """From now on the machine rolls back by itself after ``seconds``.

        Raises SmallkubeError when another node of a lockstep deploy has failed.
        """
        if fault := self.barrier.wait(self.node, SyncPoint.PREPARED, "", self.stopped):
            raise SmallkubeError(f"nothing was activated: {fault}")
        host.run_checked(script("arm", self.nonce, str(self.seconds), self.system, timeout=ARM_SECONDS))
        self._due = self.now() + self.seconds
        self._armed = True

    def activate(self, host: Host) -> None:
        """Start the activation and follow it to its end, over new connections if need be.

        Raises SmallkubeError when it was certainly not started.
        """
        self._due = self._due or self.now() + self.seconds
        try:
            held = ("hold",) if self.barrier else ()
            started = host.run(script("activate", self.nonce, self.system, *held))
        except SmallkubeError:
            host.close()  # only a new connection can show whether it was started
        else:
            if not started.ok:
                raise SmallkubeError(f"the activation could not be started: {started.last_line}")

        def ended(asked: Host) -> bool:
            began = _microseconds()
            now = self._progress(asked, FOLLOW_TENTHS)
            if now.held and not self._released:
                self._release(asked, now.clock - min(max(now.clock, began), _microseconds()))
            return now.status is not None or bool(now.outcome) or not now.begun or self.stopped()

        self._ask(ended, lambda: self._due, host)

    def _release(self, host: Host, ahead: int) -> None:
        """Let the machine go on at the same moment as the others; its clock is ``ahead`` microseconds ahead of ours."""
        self.barrier.wait(self.node, SyncPoint.HELD, "", self._late)
        moment = self.barrier.met(SyncPoint.HELD, _microseconds()) + RELEASE_MICROSECONDS + ahead
        host.run(script("release", self.nonce, str(moment)))
        self._released = True

    def _late(self) -> bool:
        return self.stopped() or self.now() >= self._due

    def confirm(self) -> Verdict:
        """Confirm the system over a new connection if the machine is healthy, else let it roll back."""
        verdict = self._ask(self._decide, lambda: self._due)
        return verdict or self._await_rollback(self._lost or TOO_LATE)

    def _decide(self, host: Host) -> Verdict:
        now = self._progress(host)
        if not now.begun:
            return self._await_rollback("")
        if now.outcome:
            return self._await_rollback(TOO_LATE if now.status is None else "it was not confirmed in time")
        reason = self._faults(host)
        if reason and not self._armed:
            self.barrier.leave(self.node, reason)
            still = "it runs the new system, automatic rollback was disabled"
            return Verdict(NodeOutcome.FAILED, f"{still}: {reason}", self._log)
        if reason:
            host.run(script("trigger-rollback", self.nonce))
            return self._await_rollback(reason)
        confirmed = host.run(script("confirm", self.nonce))
        return Verdict(None, log=now.log) if confirmed.ok else self._await_rollback(confirmed.last_line)

    def _faults(self, host: Host) -> str:
        """What is wrong with the new system, here or on another node of a lockstep deploy."""
        elsewhere = self.barrier.wait(self.node, SyncPoint.ACTIVATED, "", self._late)
        now = self._progress(host)
        self.failed_units = checks.failed_units(self.before, now)
        here = ["interrupted"] if self.stopped() else list(checks.unhealthy(self.before, now, self.system))
        if not here and not elsewhere:
            here += self.examine(host)
        reason = "; ".join(here)
        return _joined(reason, elsewhere or self.barrier.wait(self.node, SyncPoint.CHECKED, reason, self._late))

    def _await_rollback(self, reason: str) -> Verdict:
        """What the machine decided, once it has been carried out."""
        self.barrier.leave(self.node, reason)

        def ended(asked: Host) -> Progress | None:
            now = self._progress(asked)
            return now if now.rollback_status is not None or now.outcome == "confirmed" or not now.begun else None

        last = self._ask(ended, self._deadline)
        if last is None:
            return Verdict(NodeOutcome.UNKNOWN, _joined(reason, self._what_is_known()), self._log)
        if last.outcome == "confirmed":
            return Verdict(None, log=last.log)
        if not last.begun:
            reason = _joined(reason, "the machine was restarted before it was confirmed")
            if last.system in (self.before.system, self.before.profile):
                return Verdict(NodeOutcome.ROLLED_BACK, reason, self._log)
            return Verdict(NodeOutcome.UNKNOWN, f"{reason}; it runs {last.system}", self._log)
        if last.system != self.before.system or last.rollback_status == NOT_STARTED:
            failed = f"the rollback failed (status {last.rollback_status}), it runs {last.system}"
            return Verdict(NodeOutcome.UNKNOWN, f"{reason}; {failed}", self._log)
        errors = f"the rollback had errors (status {last.rollback_status})" if last.rollback_status else ""
        return Verdict(NodeOutcome.ROLLED_BACK, _joined(reason, errors), self._log)

    def _what_is_known(self) -> str:
        left = self._due - self.now()
        if self._last and self._last.outcome:
            return f"it began to roll back to {self.before.system}; the end was not observed"
        if not self._armed:
            last = f"last ran {self._last.system}" if self._last else "has not been reached since"
            return f"automatic rollback was disabled; the machine {last}"
        when = f"fires in {left:.0f} s" if left > 0 else f"was due {-left:.0f} s ago"
        return f"the machine is unreachable; its rollback to {self.before.system} was armed and {when}"

    @property
    def _log(self) -> str:
        return self._last.log if self._last else ""

    def _progress(self, host: Host, tenths: int = 0) -> Progress:
        began = self.now()
        self._last, self._lost = facts.progress(host, self.nonce, tenths), ""
        self._took = self.now() - began - tenths / 10
        return self._last

    def _ask(
        self, question: Callable[[Host], T | None], deadline: Callable[[], float], host: Host | None = None
    ) -> T | None:
        """The first answer, over ``host`` as long as it lives, then over new connections.

        None: out of time, or stopped while the machine is unreachable.
        """
        while self.now() < deadline():
            try:
                with nullcontext(host) if host else self.connect() as asked:
                    while self.now() < deadline():
                        if answer := question(asked):
                            return answer
                        self.sleep(polling.rest(POLL_SECONDS, self._took))
            except SmallkubeError as error:
                self._lost = f"no new connection to it: {error.message}"
                if self.stopped():
                    return None
            host = None
            self.sleep(RECONNECT_SECONDS)
        return None

    def _deadline(self) -> float:
        rolling_back = self._last is not None and self._last.outcome == "rolled back"
        return self._due + (ROLLBACK_SECONDS if rolling_back else GRACE_SECONDS)


def _microseconds() -> int:
    """Since 1970."""
    return time.time_ns() // 1000


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))
