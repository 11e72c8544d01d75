"""Arm, activate, confirm or go back: the part of a deploy during which a machine may cut us off.

The machine decides what holds: whoever first makes /run/smallkube/NONCE/decision, its timer or we, has decided.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from smallkube.deploy import health, host
from smallkube.deploy.host import Look, Progress, script
from smallkube.errors import SmallkubeError
from smallkube.remote.connection import Session

POLL_SECONDS = 0.5
GRACE_SECONDS = 60
"""How long after the rollback was due we go on asking a machine what became of it."""


class Ending(StrEnum):
    """How an activation ended."""

    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """``reason`` says why a machine went back, or what is known when nothing can be seen of it."""

    ending: Ending
    reason: str = ""
    log: str = ""


@dataclass
class Activation:
    """One activation of ``system`` on one node. ``connect`` makes a new, unopened session each time."""

    connect: Callable[[], Session]
    nonce: str
    system: str
    before: Look
    seconds: int
    stopped: Callable[[], bool] = lambda: False
    _due: float = 0.0
    _seen: Progress | None = None

    def arm(self, session: Session) -> None:
        """From here on the machine goes back by itself after ``seconds``."""
        session.must(script("arm", self.nonce, str(self.seconds)))
        self._due = time.monotonic() + self.seconds

    def activate(self, session: Session) -> None:
        """Start the activation and follow it to its end, over new connections if need be."""
        session.must(script("activate", self.nonce, self.system, "test"))
        self._seen = self._await(session, lambda now: now.status is not None or bool(now.outcome))

    def confirm(self) -> Verdict:
        """Look over a new connection; accept the system for good if the machine is well, else have it go back."""
        if self._seen is None:
            return self._unreachable()
        if self._seen.outcome:
            return self._went_back("the activation did not end in time")
        try:
            with self.connect() as session:
                return self._judge(session)
        except SmallkubeError as error:
            return self._watch_rollback(f"no new connection to it: {error.message}")

    def _judge(self, session: Session) -> Verdict:
        now = host.progress(session, self.nonce)
        reasons = ["interrupted"] if self.stopped() else health.ill(self.before, now, self.system)
        if reasons:
            session.run(script("give-up", self.nonce))
            return self._watch_rollback("; ".join(reasons), log=now.log)
        accepted = session.run(script("decide", self.nonce))
        if not accepted.ok:
            return self._watch_rollback("the confirmation came too late")
        return Verdict(Ending.CONFIRMED, log=now.log)

    def _watch_rollback(self, reason: str, log: str = "") -> Verdict:
        seen = self._await(None, lambda now: now.rollback_status is not None or now.outcome == "confirmed")
        if seen is None:
            return self._unreachable(reason)
        if seen.outcome == "confirmed":
            return Verdict(Ending.CONFIRMED, log=log)
        return self._went_back(reason, seen, log)

    def _went_back(self, reason: str, seen: Progress | None = None, log: str = "") -> Verdict:
        if seen is None or seen.rollback_status is None:
            seen = self._await(None, lambda now: now.rollback_status is not None)
        if seen is None:
            return self._unreachable(reason)
        if seen.system != self.before.system:
            return Verdict(Ending.UNKNOWN, f"{reason}; going back failed, it runs {seen.system}", log or seen.log)
        return Verdict(Ending.ROLLED_BACK, reason, log or seen.log)

    def _unreachable(self, reason: str = "") -> Verdict:
        left = self._due - time.monotonic()
        when = f"fires in {left:.0f} s" if left > 0 else f"was due {-left:.0f} s ago"
        text = f"the machine can't be reached; its rollback to {self.before.system} is armed and {when}"
        return Verdict(Ending.UNKNOWN, f"{reason}; {text}" if reason else text)

    def _await(self, session: Session | None, condition: Callable[[Progress], bool]) -> Progress | None:
        """Ask until ``condition`` holds; over new connections once there is none. None: out of time."""
        deadline = self._due + GRACE_SECONDS
        while time.monotonic() < deadline:
            try:
                if session is None:
                    session = self.connect()
                    session.open()
                now = host.progress(session, self.nonce)
                if condition(now):
                    return now
            except SmallkubeError:
                if session:
                    session.close()
                session = None
            time.sleep(POLL_SECONDS)
        return None
