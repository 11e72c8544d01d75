"""Runs two things alternately (A B A B …), so that a machine whose speed drifts treats both alike."""

import fcntl
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smallkube.core import process, ui
from smallkube.core.errors import SmallkubeError, one_line

INV = Path(sys.executable).with_name("inv")
PREFIX = "smallkube-bench-"

Work = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured: ``runs`` of each side, after one that is not counted if ``warm_up``.

    ``nodes``: sizes of the clusters. ``evaluated``: how many nodes of the smallest one Nix evaluates. ``megabytes``:
    sizes of etcd's database. ``hosts``: sizes of the simulated fleet. ``quick``: nothing is installed.
    """

    runs: int
    warm_up: bool
    nodes: tuple[int, ...]
    evaluated: tuple[int, ...]
    megabytes: tuple[int, ...]
    hosts: tuple[int, ...]
    quick: bool = False


FULL = Plan(
    runs=5, warm_up=True, nodes=(50, 254), evaluated=(10, 50), megabytes=(20, 200, 1000), hosts=(8, 32, 128, 254)
)
QUICK = Plan(runs=1, warm_up=False, nodes=(3,), evaluated=(1, 3), megabytes=(5,), hosts=(2,), quick=True)


@dataclass(frozen=True)
class Row:
    """One line of the report: medians in seconds, the goal in words; the least and the most of each side.

    ``paired``: the median of the ratios of runs that followed one another, which other work on the machine slows alike.
    ``hosts``: of the fleet; then ``processors`` (seconds of all processes) and ``mebibytes`` (of the largest process)
    have the median of each side.
    """

    work: str
    ours: float
    against: str
    theirs: float | None
    goal: str
    spreads: tuple[tuple[float, float], ...] = ()
    paired: float = 0.0
    runs: int = 1
    hosts: int = 0
    processors: tuple[float, ...] = ()
    mebibytes: tuple[float, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.work}, {self.hosts} hosts" if self.hosts else self.work

    @property
    def ratio(self) -> str:
        return f"{self.paired or self.ours / self.theirs:.2f}" if self.theirs else ""


Benchmark = Callable[[Plan], Iterator[Row]]


def measure(benchmarks: Mapping[str, Benchmark], plan: Plan) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each of ``benchmarks``, and the names of those that failed, which do not keep others from running."""
    rows: dict[str, list[Row]] = {}
    failed = []
    for name, benchmark in benchmarks.items():
        try:
            for row in benchmark(plan):
                ui.message(f"measured: {row.where}")
                rows.setdefault(name, []).append(row)
        except Exception as error:
            ui.message(f"{name} failed: {one_line(str(error)) or type(error).__name__}")
            failed.append(name)
    return rows, failed


def compare(plan: Plan, work: str, ours: Work, against: str = "", theirs: Work | None = None, goal: str = "") -> Row:
    """Medians of the plan's runs of each side."""
    sides = [ours] + ([theirs] if theirs else [])
    times: list[list[float]] = [[] for _ in sides]
    for run in range(-plan.warm_up, plan.runs):
        for side, taken in zip(sides, times, strict=True):
            began = time.perf_counter()
            side()
            if run >= 0:
                taken.append(time.perf_counter() - began)
    medians = [statistics.median(taken) for taken in times]
    spreads = tuple((min(taken), max(taken)) for taken in times)
    paired = statistics.median(times[0][run] / times[-1][run] for run in range(plan.runs))
    return Row(work, medians[0], against, medians[1] if theirs else None, goal, spreads, paired, plan.runs)


def prepared(plan: Plan, make: Callable[[int], Work]) -> Work:
    """A piece of work of which each run has its own place, and all places are made before the first run.

    Files that were just removed make the kernel slow to make new ones (ext4 passes over their inodes for seconds).
    """
    works = iter([make(number) for number in range(plan.runs + plan.warm_up)])

    def work() -> None:
        next(works)()

    return work


def command(argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Work:
    """A whole process as a piece of work; raises SmallkubeError when it fails."""
    words = [str(word) for word in argv]

    def work() -> None:
        done = subprocess.run(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise SmallkubeError(
                f"exit status {done.returncode}: {lines[-1] if lines else 'no message'}", where=words[0]
            )

    return work


def absent(work: str, *programs: str | Path) -> bool:
    """Whether one of ``programs`` is not found, so that ``work`` can't be measured; says so."""
    missing = [str(program) for program in programs if process.find(str(program)) is None]
    if missing:
        ui.warn(f"{work} is not measured: {', '.join(missing)} not found")
    return bool(missing)


@contextmanager
def scratch() -> Iterator[None]:
    """Have all temporary files in a folder that is removed at the end; what killed benchmarks left is removed first.

    So is what Python compiles, which it keeps as it does for users. The folder is locked as long as its process lives:
    benchmarks of another working copy may run at the same time.
    """
    for leftover in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/"):
        with _locked(leftover) as unused:
            if unused:
                shutil.rmtree(leftover, ignore_errors=True)
    before, environment = tempfile.tempdir, dict(os.environ)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, _locked(Path(name)):
        tempfile.tempdir = os.environ["TMPDIR"] = name
        os.environ["PYTHONPYCACHEPREFIX"] = f"{name}/compiled"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.environ.clear()
            os.environ.update(environment)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether ``folder`` is ours and no other process has it locked; then it is locked while the block runs."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)
