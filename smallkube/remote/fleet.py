"""The same work on many nodes: in stages, in parallel within a stage, each node's failure kept to itself."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from smallkube.core.errors import ErrorGroup, SmallkubeError, of_os, one_line
from smallkube.inventory.models import Node
from smallkube.remote.host import Connect, Host

MAX_PARALLEL = 32
_TURN_SECONDS = 0.5

T = TypeVar("T")
R = TypeVar("R", bound="Report")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How one node ended: with a value or an error; both are None when the work on it never began."""

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


def run(
    staged: Sequence[Sequence[Node]],
    work: Callable[[Node], T],
    *,
    should_continue: Callable[[Sequence[Outcome[T]]], bool] = lambda _: True,
    stop: threading.Event | None = None,
    at_once: int = MAX_PARALLEL,
) -> tuple[Outcome[T], ...]:
    """``work`` on every node, stage after stage, ``at_once`` at most; after each ``should_continue`` sees its outcomes.

    SmallkubeErrors become outcomes; nodes whose stage never came have an empty one. Ctrl-C sets ``stop``, which the
    work checks between its steps, and no further stage begins; without ``stop``, or a second time, it is raised
    at once and whatever is under way ends with the process.
    """
    outcomes: list[Outcome[T]] = []
    going = True
    for stage in staged:
        if not going:
            outcomes += [Outcome(node) for node in stage]
            continue
        futures, threads = _workers(stage, work, at_once)
        try:
            with _without_interruption():
                for thread in threads:
                    thread.start()
            _wait(futures)
        except KeyboardInterrupt:
            if stop is None:
                raise
            stop.set()
            _wait(futures)
        done = [future.result() for future in futures]
        outcomes += done
        going = should_continue(done) and not (stop and stop.is_set())
    return tuple(outcomes)


def _wait(futures: Sequence[Future[Outcome[T]]]) -> None:
    """In turns: a signal that the kernel gave to another thread does not wake this one, and is handled only by it."""
    while wait(futures, timeout=_TURN_SECONDS).not_done:
        pass


@contextmanager
def _without_interruption() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _workers(
    stage: Sequence[Node], work: Callable[[Node], T], at_once: int
) -> tuple[list[Future[Outcome[T]]], tuple[threading.Thread, ...]]:
    """Daemon threads, unlike an executor's, don't keep a process alive that was interrupted twice."""
    futures: list[Future[Outcome[T]]] = [Future() for _ in stage]
    waiting: queue.SimpleQueue[tuple[Node, Future[Outcome[T]]]] = queue.SimpleQueue()
    for pair in zip(stage, futures, strict=True):
        waiting.put(pair)

    def work_through() -> None:
        with suppress(queue.Empty):
            while True:
                node, future = waiting.get_nowait()
                try:
                    future.set_result(_one(node, work))
                except BaseException as error:
                    future.set_exception(error)

    count = min(len(stage), at_once)
    return futures, tuple(threading.Thread(target=work_through, daemon=True) for _ in range(count))


def _one(node: Node, work: Callable[[Node], T]) -> Outcome[T]:
    began = time.monotonic()
    try:
        return Outcome(node, value=work(node), seconds=time.monotonic() - began)
    except SmallkubeError as error:
        return Outcome(node, error=error, seconds=time.monotonic() - began)
    except OSError as error:
        return Outcome(node, error=of_os(error), seconds=time.monotonic() - began)


def raise_errors(outcomes: Sequence[Outcome[T]]) -> None:
    """Raise ErrorGroup when any node failed; its lines name the nodes."""
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        raise ErrorGroup(errors)


def ask(nodes: Sequence[Node], connect: Connect, question: Callable[[Host], T]) -> tuple[Outcome[T], ...]:
    """What each of ``nodes`` answers, over a connection of its own, all at once."""

    def work(node: Node) -> T:
        with connect(node) as host:
            return question(host)

    return run([nodes], work)


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
    """``run``, with how each node ended, in their order; ``kind`` makes the report of one that has none.

    No stage begins once more than ``max_failures`` nodes did not end well.
    """
    failures = 0

    def one(node: Node) -> R:
        began = time.monotonic()
        try:
            ended = work(node)
        except (SmallkubeError, OSError) as error:
            fault = of_os(error) if isinstance(error, OSError) else error
            ended = kind(node.name, NodeOutcome.FAILED, reason=reason_of(fault))
        watcher.done(node.name, ended.outcome)
        ended.seconds = round(time.monotonic() - began, 1)
        return ended

    def should_continue(done: Sequence[Outcome[R]]) -> bool:
        nonlocal failures
        failures += sum(outcome.value is None or not outcome.value.good for outcome in done)
        return failures <= max_failures

    outcomes = run(staged, one, should_continue=should_continue, stop=stop, at_once=at_once)
    reason = "interrupted" if stop.is_set() else "an earlier node failed"
    return tuple(outcome.value or kind(outcome.node.name, NodeOutcome.NOT_RUN, reason=reason) for outcome in outcomes)


def reason_of(error: SmallkubeError) -> str:
    """An error as the reason of a row that names the node already."""
    return one_line(f"{error.message}; {error.hint}" if error.hint else error.message)
