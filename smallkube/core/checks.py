"""One thing that was checked, whatever it was: a node, a backup, the configuration, the cluster."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

_MAX_FAULT = 500
"""Characters of a fault, which may quote what a machine says."""


MAX_FAULTS = 16
"""Of a check; each of hundreds of nodes may find fault with every other one."""


class Result(StrEnum):
    """How a check ended. SKIPPED: it does not apply, or nothing could tell; the detail says why."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """``subject`` is the node, file or backup that was checked, "" for the cluster; ``check`` is what was checked."""

    subject: str
    check: str
    result: Result
    detail: str = ""

    @classmethod
    def of(cls, subject: str, check: str, faults: Iterable[str], seen: str = "") -> "Check":
        """FAILED with the ``faults``, whose ends are cut off, else OK with what was ``seen``."""
        given = [fault[:_MAX_FAULT] for fault in faults]
        rest = [f"{len(given) - MAX_FAULTS} more"] if len(given) > MAX_FAULTS else []
        found = "; ".join([*given[:MAX_FAULTS], *rest])
        return cls(subject, check, Result.FAILED if found else Result.OK, found or seen)


def failed(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those that failed."""
    return tuple(check for check in checks if check.result is Result.FAILED)
