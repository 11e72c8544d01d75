"""One node after the other, and how each of them fared."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from smallkube.core.errors import SmallkubeError, one_line
from smallkube.inventory.models import Node
from smallkube.remote import fleet


class NodeOutcome(StrEnum):
    """The outcome of one node."""

    REBOOTED = "rebooted"
    DRAINED = "drained"
    UNCORDONED = "uncordoned"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RUN = "not run"


GOOD = frozenset({NodeOutcome.REBOOTED, NodeOutcome.DRAINED, NodeOutcome.UNCORDONED})


@dataclass(frozen=True)
class Report:
    """How one node ended; ``reason`` is what is worth knowing about it."""

    node: str
    outcome: NodeOutcome
    seconds: float = 0.0
    reason: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


class Watcher(Protocol):
    """Whoever shows the progress."""

    def step(self, node: str, text: str) -> None: ...
    def done(self, node: str, outcome: str) -> None: ...


def one_by_one(
    nodes: Sequence[Node], work: Callable[[Node], Report], watcher: Watcher, stop: threading.Event, *, halt: bool = True
) -> tuple[Report, ...]:
    """``work`` on each node in this order; with ``halt`` the first that does not end well is the last one.

    Ctrl-C sets ``stop``, which the work is to look at between its steps.
    """

    def one(node: Node) -> Report:
        began = time.monotonic()
        try:
            report = work(node)
        except SmallkubeError as error:
            report = Report(node.name, NodeOutcome.FAILED, reason=reason_of(error))
        watcher.done(node.name, report.outcome)
        return replace(report, seconds=round(time.monotonic() - began, 1))

    outcomes = fleet.run(
        [(node,) for node in nodes],
        one,
        should_continue=lambda done: not halt or all(outcome.value and outcome.value.good for outcome in done),
        stop=stop,
    )
    untouched = "interrupted" if stop.is_set() else "an earlier node failed"
    return tuple(
        outcome.value or Report(outcome.node.name, NodeOutcome.NOT_RUN, reason=untouched) for outcome in outcomes
    )


def reason_of(error: SmallkubeError) -> str:
    """An error as the reason of a row that names the node already."""
    return one_line(f"{error.message}; {error.hint}" if error.hint else error.message)
