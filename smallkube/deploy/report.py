"""How a deploy ended on each node: it claims no more than was verified."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from smallkube.core.errors import SmallkubeError
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


GOOD = frozenset({Outcome.DEPLOYED, Outcome.UNCHANGED, Outcome.BUILT, Outcome.CHECKED, Outcome.TESTED, Outcome.READY})
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
        return self.outcome in GOOD

    def add_reason(self, reason: str) -> None:
        """One more reason; the outcome stays."""
        self.reason = "; ".join(filter(None, (self.reason, reason)))


@contextmanager
def kept_log(file: Path, mode: Literal["wb", "ab"] = "wb") -> Iterator[Callable[[bytes], object]]:
    """A function that writes to the log ``file``; raises SmallkubeError when it can't be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open(mode, buffering=0) as log:
            yield log.write
    except OSError as error:
        raise SmallkubeError(f"{file} can't be written: {error.strerror}") from error
