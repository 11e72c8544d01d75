"""The same work on many nodes: in stages, in parallel within a stage, each node's failure kept to itself."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from smallkube.core.errors import ErrorGroup, SmallkubeError, of_os, one_line
from smallkube.inventory.models import Node
from smallkube.remote.host import Connect, Host

MAX_PARALLEL = 32
_TURN_SECONDS = 0.5

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R", bound="Report")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How one node ended: with a value or an error."""

    node: Node
    seconds: float = 0.0
    value: T | None = None
    error: SmallkubeError | None = None


def stages(nodes: Sequence[Node], batch: int | None = None) -> tuple[tuple[Node, ...], ...]:
    """The primary alone first, then the workers, ``batch`` at a time (all at once when None)."""
    primary = tuple(node for node in nodes if node.role == "primary")
    workers = [node for node in nodes if node.role != "primary"]
    size = batch or len(workers) or 1
    parts = [tuple(workers[start : start + size]) for start in range(0, len(workers), size)]
    return tuple(part for part in (primary, *parts) if part)


def parallel(
    nodes: Sequence[K], work: Callable[[K], T], stop: threading.Event | None = None, at_once: int = MAX_PARALLEL
) -> list[T]:
    """``work`` on every node, or whatever it is, ``at_once`` at most; what it raises is raised once all have ended.

    Ctrl-C sets ``stop``, which the work checks between its steps; without ``stop``, or a second time, it is raised
    at once and whatever is under way ends with the process.
    """
    slots = threading.Semaphore(at_once)

    def one(node: K, future: Future[T]) -> None:
        with slots:
            try:
                future.set_result(work(node))
            except BaseException as error:
                future.set_exception(error)

    futures: list[Future[T]] = [Future() for _ in nodes]
    # Daemon threads, unlike an executor's, don't keep a process alive that was interrupted twice.
    threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in zip(nodes, futures, strict=True)]
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for thread in threads:
                thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _wait(futures)
    except KeyboardInterrupt:
        if stop is None:
            raise
        stop.set()
        _wait(futures)
    return [future.result() for future in futures]


def together(*works: Callable[[], T]) -> list[T]:
    """What each of ``works`` gives, done at the same time; as ``parallel``."""
    return parallel(works, lambda work: work())


def _wait(futures: Sequence[Future[T]]) -> None:
    """In turns: a signal that the kernel gave to another thread does not wake this one, and is handled only by it."""
    while wait(futures, timeout=_TURN_SECONDS).not_done:
        pass


def _attempt(node: Node, work: Callable[[Node], T]) -> Outcome[T]:
    began = time.monotonic()
    try:
        return Outcome(node, value=work(node), seconds=time.monotonic() - began)
    except (SmallkubeError, OSError) as error:
        fault = of_os(error) if isinstance(error, OSError) else error
        return Outcome(node, error=fault, seconds=time.monotonic() - began)


def raise_errors(outcomes: Sequence[Outcome[T]]) -> None:
    """Raise ErrorGroup when any node failed; its lines name the nodes."""
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        raise ErrorGroup(errors)


def ask(
    nodes: Sequence[Node], connect: Connect, question: Callable[[Host], T], stop: threading.Event | None = None
) -> tuple[Outcome[T], ...]:
    """What each of ``nodes`` answers, over a connection of its own; ``stop``: see ``parallel``.

    All are connected to at once: those that are silent are waited for together. MAX_PARALLEL at a time are asked.
    """
    slots = threading.Semaphore(MAX_PARALLEL)

    def work(node: Node) -> T:
        with connect(node) as host, slots:
            return question(host)

    return tuple(parallel(nodes, lambda node: _attempt(node, work), stop, max(1, len(nodes))))


def unanswered(outcomes: Sequence[Outcome[T]]) -> dict[str, str]:
    """Node → why it could not be asked."""
    return {outcome.node.name: outcome.error.message for outcome in outcomes if outcome.error}


def unreachable(nodes: Sequence[Node], connect: Connect) -> dict[str, str]:
    """Those of ``nodes`` to which there is no connection, and why."""
    return unanswered(ask(nodes, connect, lambda _: None))


class NodeOutcome(StrEnum):
    """How work on one node ended, in words."""

    DEPLOYED = "deployed"
    UNCHANGED = "unchanged"
    BUILT = "built"
    CHECKED = "checked"
    TESTED = "tested"
    READY = "boots next"
    ROLLED_BACK = "rolled back"
    REBOOTED = "rebooted"
    DRAINED = "drained"
    UNCORDONED = "uncordoned"
    CLEANED = "cleaned"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RUN = "not run"


@dataclass
class Report:
    """How one node ended; ``reason`` is what is worth knowing about it. It claims no more than was verified."""

    node: str
    outcome: NodeOutcome
    seconds: float = 0.0
    reason: str = ""

    @property
    def good(self) -> bool:
        bad = (NodeOutcome.ROLLED_BACK, NodeOutcome.FAILED, NodeOutcome.UNKNOWN, NodeOutcome.NOT_RUN)
        return self.outcome not in bad


class Watcher(Protocol):
    """Shows the progress."""

    def step(self, node: str, text: str) -> None: ...
    def done(self, node: str, outcome: str) -> None: ...
    def output(self, node: str, line: str, counts: str) -> None: ...


def report(
    staged: Sequence[Sequence[Node]],
    work: Callable[[Node], R],
    watcher: Watcher,
    stop: threading.Event,
    *,
    kind: type[R],
    max_failures: int = 0,
    at_once: int = MAX_PARALLEL,
) -> tuple[R, ...]:
    """``work`` on the nodes, stage after stage; how each ended, in their order. ``kind`` makes the report of one that
    has none.

    No stage begins once more than ``max_failures`` nodes did not end well. Ctrl-C: see ``parallel``.
    """

    def one(node: Node) -> R:
        ended = _attempt(node, work)
        row = ended.value or kind(node.name, NodeOutcome.FAILED, reason=reason_of(ended.error) if ended.error else "")
        row.seconds = round(ended.seconds, 1)
        watcher.done(node.name, row.outcome)
        return row

    rows: list[R] = []
    for stage in staged:
        if stop.is_set() or sum(not row.good for row in rows) > max_failures:
            reason = "interrupted" if stop.is_set() else "an earlier node failed"
            rows += [kind(node.name, NodeOutcome.NOT_RUN, reason=reason) for node in stage]
        else:
            rows += parallel(stage, one, stop, at_once)
    return tuple(rows)


def reason_of(error: SmallkubeError) -> str:
    """An error as the reason of a row that names the node already."""
    return one_line(f"{error.message}; {error.hint}" if error.hint else error.message)
