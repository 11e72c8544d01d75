"""How a deploy ended on each machine: no word claims more than was seen."""

from dataclasses import dataclass
from enum import StrEnum

from smallkube.deploy.plan import Goal


class Word(StrEnum):
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


GOOD = frozenset({Word.DEPLOYED, Word.UNCHANGED, Word.BUILT, Word.CHECKED, Word.TESTED, Word.READY})
REACHED = {
    Goal.BUILD: Word.BUILT,
    Goal.DRY_ACTIVATE: Word.CHECKED,
    Goal.TEST: Word.TESTED,
    Goal.BOOT: Word.READY,
    Goal.SWITCH: Word.DEPLOYED,
}


@dataclass(frozen=True)
class Report:
    """How one node ended. ``difference`` is Nix' closure difference, ``log`` the end of what failed; ``unconfirmed``
    names the health gates that could not be asked, or had failed before already.
    """

    node: str
    outcome: Word
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
        return self.outcome in GOOD
