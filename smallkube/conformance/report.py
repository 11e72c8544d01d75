"""How a run ended, as a table by group of owners and as JUnit XML. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from smallkube.conformance.catalogue import sig
from smallkube.conformance.outcome import FAILED, PASSED, SKIPPED, Outcome
from smallkube.conformance.record import Run
from smallkube.core import junit as core_junit
from smallkube.core.junit import Case

COLUMNS = ("SIG", "TESTS", "PASSED", "FAILED", "SKIPPED", "NOT RUN", "MINUTES")


@dataclass(frozen=True)
class Report:
    """``wanted``: the names of the tests that were to run; ``all_tests``: how many there are without a focus."""

    run: Run
    wanted: Sequence[str]
    outcomes: Sequence[Outcome]
    all_tests: int

    def of(self, state: str) -> tuple[Outcome, ...]:
        """The tests that ended so."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == state)

    @property
    def not_run(self) -> tuple[str, ...]:
        done = {outcome.name for outcome in self.outcomes}
        return tuple(name for name in self.wanted if name not in done)

    @property
    def complete(self) -> bool:
        """Whether every test ran."""
        return not self.not_run and len(self.outcomes) == self.all_tests

    @property
    def summary(self) -> str:
        counts = [f"{len(self.of(PASSED))} of {len(self.wanted)} passed", f"{len(self.of(FAILED))} failed"]
        counts += [f"{len(self.of(SKIPPED))} skipped"] if self.of(SKIPPED) else []
        return ", ".join([*counts, f"{len(self.not_run)} not run"] if self.not_run else counts)

    def rows(self) -> list[tuple[object, ...]]:
        """The table by SIG, with a last row for all."""
        names = sorted({sig(name) for name in self.wanted})
        return [*(self._row(name, name) for name in names), self._row("all", "")]

    def _row(self, title: str, group: str) -> tuple[object, ...]:
        wanted = [name for name in self.wanted if not group or sig(name) == group]
        found = [outcome for outcome in self.outcomes if not group or sig(outcome.name) == group]
        counts = [sum(outcome.state == state for outcome in found) for state in (PASSED, FAILED, SKIPPED)]
        minutes = sum(outcome.seconds for outcome in found) / 60
        return (title, len(wanted), *counts, len(wanted) - len(found), f"{minutes:.1f}")


def junit(report: Report) -> str:
    """The report for others."""
    ends = {FAILED: "failure", SKIPPED: "skipped"}
    cases = [
        Case(sig(one.name), one.name, one.seconds, ends.get(one.state, ""), one.message) for one in report.outcomes
    ]
    return core_junit.report(f"Kubernetes conformance {report.run.program}", cases)
