"""How the checks ended. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from smallkube.core.checks import Check, Result
from smallkube.core.junit import Case, report


@dataclass(frozen=True)
class SmokeResult(Check):
    """``check`` is the name in the table. Not ``reached``: it could not be made, because of what another reports."""

    seconds: float = 0.0
    reached: bool = True

    @property
    def outcome(self) -> str:
        """The result in a word, in which what was not reached differs from what does not apply."""
        return self.result.value if self.reached else "not reached"


def faults(results: Sequence[SmokeResult], *, detailed: bool = False) -> list[str]:
    """What failed, with its details if ``detailed``, and how many checks were not reached because of it."""
    failed = [
        f"{one.check} ({one.detail})" if detailed else one.check for one in results if one.result is Result.FAILED
    ]
    missing = [one for one in results if not one.reached]
    if failed and missing:
        cause = "it" if len(failed) == 1 else "them"
        failed[-1] += f"; {len(missing)} more not reached because of {cause}"
    elif missing:
        return [f"{len(missing)} not reached, {missing[0].check} first: {missing[0].detail}"]
    return failed


def junit(results: Sequence[SmokeResult], cluster: str) -> str:
    """The report for others; a check that was not reached is an error there."""
    ends = {"failed": "failure", "not reached": "error", "skipped": "skipped"}
    cases = []
    for one in results:
        group, _, name = one.check.partition(".")
        cases.append(Case(group, name, one.seconds, ends.get(one.outcome, ""), one.detail))
    return report(f"smallkube smoke test of {cluster}", cases)
