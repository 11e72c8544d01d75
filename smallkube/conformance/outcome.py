"""How a test ended, read from what the test program prints as it runs. Pure.

Format: github.com/onsi/ginkgo/v2/reporters/default_reporter.go, verbose and without colours. A block between two lines
of dashes is about one test: a header with its state and duration, and its name in the line after that, or where one
process runs the tests, which prints as it goes on, in the first line.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
KEPT_LINES = 400
"""Of the log of a test that failed: so many first and as many last lines, each cut to LINE_LENGTH."""
LINE_LENGTH = 1000
_DELIMITER = "-" * 30
_HEADER = re.compile(r"(?:[•+SP]|\[(\w*BeforeSuite)\]) (?:\[([A-Z]+)!?\] )?\[(\d{1,7}\.\d{3}) seconds\]")
_STATES = {None: PASSED, "FAILED": FAILED, "PANICKED": FAILED, "TIMEDOUT": FAILED, "SKIPPED": SKIPPED}
"""Word of a header → state; a test that was interrupted or aborted has none."""
_NODE = re.compile(r"\[(?:It|(?:Just)?(?:Before|After)Each|DeferCleanup[^]]*)\] ?")
_REASON = re.compile(r"\s*\[(?:FAILED|PANICKED|TIMEDOUT|SKIPPED)!?\] (?!in \[)(.+)")


@dataclass(frozen=True)
class Outcome:
    """How a test ended; ``message`` says why it failed or was skipped, ``log`` is all that a failed one printed."""

    name: str
    state: str
    seconds: float
    message: str = ""
    log: str = ""


class Reader:
    """Finds the outcomes of the tests called ``names`` in the lines that the program prints."""

    def __init__(self, names: Iterable[str]) -> None:
        # Labels follow the name in its line, where the longest name counts.
        self._names = sorted(names, key=len, reverse=True)
        self.found = 0
        """How many outcomes there were."""
        self.fault = ""
        """Why the tests could not begin, if so."""
        self._begin()

    def _begin(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._header: re.Match[str] | None = None
        self._title = ""

    def feed(self, line: str) -> Outcome | None:
        """Take the next line; the outcome of the test that it ends, if it does."""
        line = line.rstrip()[:LINE_LENGTH]
        if line == _DELIMITER:
            return self.end()
        if self._header and not self._title:
            self._title = line
        if found := _HEADER.fullmatch(line):
            self._header, self._title = found, ""
        if len(self._first) < KEPT_LINES:
            self._first.append(line)
        else:
            self._last.append(line)
        return None

    def end(self) -> Outcome | None:
        """Take the end of a block, or of all."""
        header, lines, title = self._header, [*self._first, *self._last], self._title
        self._begin()
        if header is None:
            return None
        state = _STATES.get(header[2])
        if header[1]:
            self.fault = self.fault or (_message(lines, "failed without a message") if header[2] else "")
            return None
        name = self._named(title) or (self._named(lines[0]) if lines else None)
        if name is None or state is None:
            return None
        self.found += 1
        failed = state == FAILED
        log = "\n".join(lines) + "\n" if failed else ""
        message = "" if state == PASSED else _message(lines, "failed without a message" if failed else "")
        return Outcome(name, state, float(header[3]), message, log)

    def _named(self, line: str) -> str | None:
        plain = " ".join(_NODE.sub("", line).split())
        return next((name for name in self._names if name in plain), None)


def _message(lines: list[str], otherwise: str) -> str:
    found = [match[1] for line in lines if (match := _REASON.match(line))]
    return found[-1] if found else otherwise
