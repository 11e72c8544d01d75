"""Runs two things in turn (A B A B …), so that a machine whose speed drifts treats both alike."""

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 5

Work = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One line of the report: medians in seconds, the goal in words."""

    work: str
    ours: float
    against: str
    theirs: float | None
    goal: str

    @property
    def ratio(self) -> str:
        return f"{self.ours / self.theirs:.2f}" if self.theirs else ""


def compare(work: str, ours: Work, against: str, theirs: Work | None, goal: str, runs: int = RUNS) -> Row:
    """Medians of ``runs`` runs of each, after one of each that is not counted."""
    sides = [ours] + ([theirs] if theirs else [])
    times: list[list[float]] = [[] for _ in sides]
    for run in range(runs + 1):
        for side, taken in zip(sides, times, strict=True):
            began = time.perf_counter()
            side()
            if run:
                taken.append(time.perf_counter() - began)
    medians = [statistics.median(taken) for taken in times]
    return Row(work, medians[0], against, medians[1] if theirs else None, goal)


def command(argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Work:
    """A whole process as a piece of work; it must succeed."""

    def work() -> None:
        subprocess.run([str(word) for word in argv], cwd=cwd, env=env, check=True, capture_output=True)

    return work
