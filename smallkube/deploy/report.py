"""How a deploy ended on each node: it claims no more than was verified."""

from dataclasses import dataclass
from enum import StrEnum

from smallkube.deploy.plan import Goal


class Outcome(StrEnum):
    """The outcome of one node."""

    DEPLOYED = "deployed"
    UNCHANGED = "unchanged"
    BUILT = "built"
    CHECKED = "checked"
    TESTED = "tested"
    READY = "boots next"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RUN = "not run"


EXPECTED = {
    Goal.BUILD: Outcome.BUILT,
    Goal.DRY_ACTIVATE: Outcome.CHECKED,
    Goal.TEST: Outcome.TESTED,
    Goal.BOOT: Outcome.READY,
    Goal.SWITCH: Outcome.DEPLOYED,
}


@dataclass
class Report:
    """How one node ended. ``difference`` is Nix' closure difference, ``log`` the end of what failed; ``unconfirmed``
    names the health checks that were skipped, or had failed before already.
    """

    node: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    system: str = ""
    generation: str = ""
    pushed: bool = False
    difference: str = ""
    log: str = ""
    unconfirmed: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.outcome not in (Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_RUN)

    def add_reason(self, reason: str) -> None:
        """One more reason; the outcome stays."""
        self.reason = "; ".join(filter(None, (self.reason, reason)))
