"""The record of a run, as it goes on: the results of an interrupted one are kept for the next.

A folder with ``run.json``, ``results.jsonl`` (a line for each test), ``logs`` of the tests that failed, ``junit.xml``
and ``output.log``, what the test program printed.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from smallkube.conformance.outcome import Outcome
from smallkube.core.errors import UsageError, of_os, split_lines
from smallkube.core.files import write_file
from smallkube.core.workspace import make_folder

MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Run:
    """What was tested, with what, since when (UTC, ISO 8601)."""

    program: str
    server: str
    nodes: int
    runtime: str
    began: str


@dataclass(frozen=True)
class Record:
    """The record in ``folder``."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "output.log"

    @property
    def junit(self) -> Path:
        return self.folder / "junit.xml"

    @property
    def _results(self) -> Path:
        return self.folder / "results.jsonl"

    def begin(self, run: Run) -> None:
        """Begin a new record instead of what is there."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)
        make_folder(self.folder)
        write_file(self.folder / "run.json", json.dumps(asdict(run), indent=2) + "\n")

    def resumed(self, program: str) -> Run:
        """The run that was interrupted. Raises UsageError when there is none of this ``program``'s."""
        try:
            run = Run(**json.loads((self.folder / "run.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError("--resume: no interrupted run", where=str(self.folder), hint="omit --resume") from error
        if run.program != program:
            raise UsageError(f"--resume: the interrupted run was of {run.program}", hint="omit --resume")
        return run

    def add(self, outcome: Outcome) -> Path | None:
        """Write down how a test ended; the file with its log, if it failed."""
        log = None
        if outcome.log:
            log = self.folder / "logs" / f"{len(self.outcomes()) + 1:03}.log"
            write_file(log, outcome.log)
        entry = {**asdict(outcome), "log": str(log.relative_to(self.folder)) if log else ""}
        try:
            with self._results.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise of_os(error, "can't be written", self._results) from error
        return log

    def outcomes(self) -> tuple[Outcome, ...]:
        """How each test ended, by its last result; ``log`` is the name of a file in the folder."""
        try:
            with self._results.open("rb") as file:
                lines = split_lines(file.read(MOST_BYTES).decode(errors="replace"))
        except FileNotFoundError:
            return ()
        found: dict[str, Outcome] = {}
        for line in lines:
            with suppress(ValueError, TypeError):  # what was not written completely
                outcome = Outcome(**json.loads(line))
                found[outcome.name] = outcome
        return tuple(found.values())
