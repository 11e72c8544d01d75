"""How a deploy ended on each node."""

from dataclasses import dataclass

from smallkube.deploy.plan import Goal
from smallkube.remote import fleet
from smallkube.remote.fleet import NodeOutcome

EXPECTED = {
    Goal.BUILD: NodeOutcome.BUILT,
    Goal.DRY_ACTIVATE: NodeOutcome.CHECKED,
    Goal.TEST: NodeOutcome.TESTED,
    Goal.BOOT: NodeOutcome.READY,
    Goal.SWITCH: NodeOutcome.DEPLOYED,
}


@dataclass
class Report(fleet.Report):
    """``difference`` is Nix' closure difference, ``log`` the end of what failed; ``unconfirmed`` names the health
    checks that were skipped, or had failed before already.
    """

    system: str = ""
    generation: str = ""
    pushed: bool = False
    difference: str = ""
    log: str = ""
    unconfirmed: tuple[str, ...] = ()

    def add_reason(self, reason: str) -> None:
        """One more reason; the outcome stays."""
        self.reason = "; ".join(filter(None, (self.reason, reason)))
