"""Arm, activate, confirm or go back: the part of a deploy during which a machine may cut us off.

The machine decides what holds: whoever first makes /run/smallkube/NONCE/decision, its timer or we, has decided.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, health
from smallkube.deploy.barrier import SyncPoint
from smallkube.deploy.facts import HostFacts, Progress, script
from smallkube.remote.host import Host

POLL_SECONDS = 0.5
GRACE_SECONDS = 60
"""How long after the rollback was due we go on asking a machine that can't be reached what became of it."""
GOING_BACK_SECONDS = 600
"""The same for a machine that is known to be going back."""
NOT_REACHED = "no new connection to it"
TOO_LATE = "the activation did not end in time"
NOT_STARTED = 1
"""Exit status of a switch-to-configuration that did nothing."""


class Ending(StrEnum):
    """How an activation ended."""

    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"
    UNHEALTHY = "not well, and no rollback was armed"


@dataclass(frozen=True)
class Verdict:
    """``reason`` says why a machine went back, or what is known when nothing can be seen of it."""

    ending: Ending
    reason: str = ""
    log: str = ""


@dataclass(frozen=True)
class Clock:
    """Seconds that only grow, and waiting for them."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Activation:
    """One activation of ``system`` on one node. ``connect`` makes a new, unopened session each time.

    ``examine`` asks the machine what else speaks against the new system, in words. ``agree`` and ``withdraw`` are for
    machines that change together: waiting for the others at a point, and telling them that this one goes back.
    """

    connect: Callable[[], Host]
    nonce: str
    system: str
    before: HostFacts
    seconds: int
    stopped: Callable[[], bool] = lambda: False
    examine: Callable[[Host], Sequence[str]] = lambda _: ()
    agree: Callable[[SyncPoint, str, Callable[[], bool]], str] = lambda _point, _complaint, _impatient: ""
    withdraw: Callable[[str], None] = lambda _: None
    clock: Clock = field(default_factory=Clock)
    _armed: bool = False
    _due: float = 0.0
    _last: Progress | None = None
    _lost: str = ""

    def arm(self, session: Host) -> None:
        """From here on the machine goes back by itself after ``seconds``."""
        session.run_checked(script("arm", self.nonce, str(self.seconds)))
        self._due = self.clock.now() + self.seconds
        self._armed = True

    def activate(self, session: Host) -> None:
        """Start the activation and follow it to its end, over new connections if need be.

        Raises SmallkubeError when it was certainly not started.
        """
        self._due = self._due or self.clock.now() + self.seconds
        try:
            started = session.run(script("activate", self.nonce, self.system, "test"))
        except SmallkubeError:
            session.close()  # whether it was started can only be seen over a new connection
        else:
            if not started.ok:
                raise SmallkubeError(f"the activation could not be started: {started.last_line}")

        def ended(now: Progress) -> bool:
            return now.status is not None or bool(now.outcome) or not now.begun or self.stopped()

        self._until(ended, lambda: self._due, session)

    def confirm(self) -> Verdict:
        """Look over new connections; accept the system for good if the machine is well, else have it go back."""
        reason = ""
        while self.clock.now() < self._due:
            try:
                with self.connect() as session:
                    return self._judge(session)
            except SmallkubeError as error:
                reason = f"{NOT_REACHED}: {error.message}"
                if self.stopped():
                    break
                self.clock.sleep(POLL_SECONDS)
        return self._watch(reason or self._lost or TOO_LATE)

    def _judge(self, session: Host) -> Verdict:
        now = self._last = facts.progress(session, self.nonce)
        if not now.begun:
            return self._watch("")
        if now.outcome:
            return self._watch(TOO_LATE if now.status is None else "it was not confirmed in time")
        reason = self._against(session)
        if reason and not self._armed:
            self.withdraw(reason)
            return Verdict(Ending.UNHEALTHY, reason, self._log())
        if reason:
            session.run(script("give-up", self.nonce))
            return self._watch(reason)
        decided = session.run(script("decide", self.nonce))
        if not decided.ok:
            return self._watch(decided.last_line)
        return Verdict(Ending.CONFIRMED, log=now.log)

    def _against(self, session: Host) -> str:
        """What speaks against the new system, here or on a machine that changes together with this one."""

        def impatient() -> bool:
            return self.stopped() or self.clock.now() >= self._due

        elsewhere = self.agree(SyncPoint.ACTIVATED, "", impatient)
        now = self._last = facts.progress(session, self.nonce)
        here = ["interrupted"] if self.stopped() else list(health.ill(self.before, now, self.system))
        if not here and not elsewhere:
            here += self.examine(session)
        reason = "; ".join(here)
        return "; ".join(filter(None, (reason, elsewhere or self.agree(SyncPoint.JUDGED, reason, impatient))))

    def _watch(self, reason: str) -> Verdict:
        """What the machine decided, once it has been carried out."""
        self.withdraw(reason)

        def carried_out(now: Progress) -> bool:
            return now.rollback_status is not None or now.outcome == "confirmed" or not now.begun

        seen = self._until(carried_out, self._patience_ends)
        if seen is None:
            return Verdict(Ending.UNKNOWN, "; ".join(filter(None, (reason, self._what_is_known()))), self._log())
        if seen.outcome == "confirmed":
            return Verdict(Ending.CONFIRMED, log=seen.log)
        if not seen.begun:
            return self._restarted(reason, seen)
        if seen.system != self.before.system or seen.rollback_status == NOT_STARTED:
            said = f"{reason}; going back failed (status {seen.rollback_status}), it runs {seen.system}"
            return Verdict(Ending.UNKNOWN, said, self._log())
        if seen.rollback_status:
            reason = f"{reason}; going back had errors (status {seen.rollback_status})"
        return Verdict(Ending.ROLLED_BACK, reason, self._log())

    def _restarted(self, reason: str, seen: Progress) -> Verdict:
        reason = "; ".join(filter(None, (reason, "the machine was restarted before it was confirmed")))
        if seen.system in (self.before.system, self.before.profile):
            return Verdict(Ending.ROLLED_BACK, reason, self._log())
        return Verdict(Ending.UNKNOWN, f"{reason}; it runs {seen.system}", self._log())

    def _what_is_known(self) -> str:
        left = self._due - self.clock.now()
        if self._last and self._last.outcome:
            return f"it began to go back to {self.before.system} and was not seen to end"
        if not self._armed:
            seen = f"was last seen with {self._last.system}" if self._last else "has not been seen since"
            return f"no rollback was armed; the machine {seen}"
        when = f"fires in {left:.0f} s" if left > 0 else f"was due {-left:.0f} s ago"
        return f"the machine can't be reached; its rollback to {self.before.system} was armed and {when}"

    def _log(self) -> str:
        return self._last.log if self._last else ""

    def _until(
        self, condition: Callable[[Progress], bool], deadline: Callable[[], float], session: Host | None = None
    ) -> Progress | None:
        """Ask until ``condition`` holds, over ``session`` as long as it lives, then new ones. None: out of time."""
        while self.clock.now() < deadline():
            try:
                with self._fresh(session) as asked:
                    while self.clock.now() < deadline():
                        self._last, self._lost = facts.progress(asked, self.nonce), ""
                        if condition(self._last):
                            return self._last
                        self.clock.sleep(POLL_SECONDS)
            except SmallkubeError as error:
                self._lost = f"{NOT_REACHED}: {error.message}"
                if self.stopped():
                    return None
            session = None
            self.clock.sleep(POLL_SECONDS)
        return None

    def _patience_ends(self) -> float:
        going_back = self._last is not None and self._last.outcome == "rolled back"
        return self._due + (GOING_BACK_SECONDS if going_back else GRACE_SECONDS)

    @contextmanager
    def _fresh(self, session: Host | None = None) -> Iterator[Host]:
        if session:
            yield session
            return
        with self.connect() as made:
            yield made
