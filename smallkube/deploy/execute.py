"""Carries out a plan: one run per node, each step in its place, and a report that claims no more than was seen."""

import getpass
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from smallkube.deploy import health, history, host
from smallkube.deploy.activation import GOING_BACK_SECONDS, Activation, Ending
from smallkube.deploy.host import Look, script, unpushed_script
from smallkube.deploy.plan import Goal, Plan, Step
from smallkube.errors import SmallkubeError, one_line
from smallkube.inventory import Node
from smallkube.remote import fleet
from smallkube.remote.bundle import Bundle
from smallkube.remote.command import Command
from smallkube.remote.connection import Session
from smallkube.workspace import Workspace, lock

TAIL_LINES = 20
COMMIT_SECONDS = 120
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

T = TypeVar("T")


class Word(StrEnum):
    """The outcome of one node."""

    DEPLOYED = "deployed"
    UNCHANGED = "unchanged"
    BUILT = "built"
    CHECKED = "checked"
    TESTED = "tested"
    READY = "boots next"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RUN = "not run"


GOOD = frozenset({Word.DEPLOYED, Word.UNCHANGED, Word.BUILT, Word.CHECKED, Word.TESTED, Word.READY})
_REACHED = {
    Goal.BUILD: Word.BUILT,
    Goal.DRY_ACTIVATE: Word.CHECKED,
    Goal.TEST: Word.TESTED,
    Goal.BOOT: Word.READY,
    Goal.SWITCH: Word.DEPLOYED,
}


@dataclass(frozen=True)
class Report:
    """How one node ended. ``difference`` is Nix' closure difference, ``log`` the end of what failed."""

    node: str
    outcome: Word
    seconds: float = 0.0
    reason: str = ""
    system: str = ""
    generation: str = ""
    pushed: bool = False
    difference: str = ""
    log: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


class Watcher(Protocol):
    """Whoever shows the progress."""

    def step(self, node: str, text: str) -> None: ...
    def done(self, node: str, outcome: str) -> None: ...


def execute(plan: Plan, bundle: Bundle, workspace: Workspace, watcher: Watcher) -> tuple[Report, ...]:
    """Deploy; the reports are in the plan's order. A stage in which a node fails is the last one.

    Ctrl-C ends every node at its next step; what is armed by then goes back.
    """
    stop = threading.Event()

    def work(node: Node) -> Report:
        began = time.monotonic()
        try:
            with lock(workspace.state_dir / "locks" / node.name, f"deploying to {node.name}"):
                report = NodeRun(plan, bundle, workspace, node, watcher, stop).execute()
        except SmallkubeError as error:
            report = Report(node.name, Word.FAILED, reason=_said(error))
        watcher.done(node.name, report.outcome)
        return replace(report, seconds=round(time.monotonic() - began, 1))

    outcomes = fleet.run(
        plan.stages,
        work,
        may_go_on=lambda done: all(outcome.value is not None and outcome.value.good for outcome in done),
        stop=stop,
    )
    untouched = "interrupted" if stop.is_set() else "an earlier node failed"
    return tuple(outcome.value or Report(outcome.node.name, Word.NOT_RUN, reason=untouched) for outcome in outcomes)


def _said(error: SmallkubeError) -> str:
    return one_line(f"{error.message}; {error.hint}" if error.hint else error.message)


class NodeRun:
    """The steps of ``plan`` on one node."""

    def __init__(
        self, plan: Plan, bundle: Bundle, workspace: Workspace, node: Node, watcher: Watcher, stop: threading.Event
    ) -> None:
        self.plan, self.bundle, self.workspace, self.node = plan, bundle, workspace, node
        self.watcher, self.stop = watcher, stop
        self.session = self._connect()
        self.report = Report(node.name, _REACHED[plan.goal])
        self.log_file = workspace.state_dir / "logs" / f"{plan.nonce}-{node.name}.log"
        self.locked = False
        self.look: Look
        self.activation: Activation

    def execute(self) -> Report:
        """Run the steps; a step that fails ends them."""
        handlers: dict[Step, Callable[[], None]] = {
            Step.CONNECT: self.session.open,
            Step.PREFLIGHT: self._preflight,
            Step.PUSH: self._push,
            Step.BUILD: self._build,
            Step.DIFFERENCE: self._difference,
            Step.DRY_ACTIVATE: self._dry_activate,
            Step.ARM: lambda: self.activation.arm(self.session),
            Step.ACTIVATE: lambda: self.activation.activate(self.session),
            Step.CONFIRM: self._confirm,
            Step.COMMIT: self._commit,
            Step.RECORD: self._record,
        }
        try:
            for step in self.plan.steps:
                if self.report.outcome is not _REACHED[self.plan.goal] and step is not Step.RECORD:
                    continue
                if self.stop.is_set() and step not in (Step.ACTIVATE, Step.CONFIRM, Step.COMMIT, Step.RECORD):
                    raise SmallkubeError("interrupted before anything was activated")
                self.watcher.step(self.node.name, step)
                handlers[step]()
        except SmallkubeError as error:
            self._end(Word.FAILED, _said(error))
        finally:
            self._leave()
        return self.report

    def _connect(self) -> Session:
        return Session(self.workspace, self.node)

    def _end(self, outcome: Word, reason: str = "", log: str = "") -> None:
        self.report = replace(self.report, outcome=outcome, reason=reason, log=log or self.report.log)

    def _preflight(self) -> None:
        self._take_lock()
        self.look = host.look(self.session, self.bundle)
        expected = (self.workspace.hosts_keys_dir / f"{self.node.name}.pub").read_text()
        reasons = health.unfit(self.look, time.time(), expected)
        if reasons:
            raise SmallkubeError("; ".join(reasons))
        if not self.look.has_scripts:
            host.push(self.session, "scripts", host.scripts())
        if self.look.armed:
            # Who holds the lock knows that nobody is left to confirm these.
            self.watcher.step(self.node.name, "let an abandoned deploy's rollback happen")
            self.session.must(script("settle", *self.look.armed, timeout=GOING_BACK_SECONDS))
            self.look = host.look(self.session, self.bundle)

    def _take_lock(self) -> None:
        file = (self.workspace.state_dir / "locks" / self.node.name).stat()
        holder = f"{operator()} {file.st_dev}:{file.st_ino}"
        taken = self.session.run(unpushed_script("lock", "take", operator(), self.plan.nonce, holder))
        if not taken.ok:
            raise SmallkubeError(taken.last_words, hint="wait for that deploy to end")
        self.locked = True

    def _push(self) -> None:
        if not self.look.has_bundle:
            host.push(self.session, "bundles", self.bundle)
            self.report = replace(self.report, pushed=True)

    def _build(self) -> None:
        with self._log() as said:
            built = host.build(self.session, self.bundle, said, self.stop.is_set)
        system = built.text.rpartition("\n")[2]
        if not built.ok or not system.startswith("/nix/store/"):
            tail = "\n".join(built.stderr.splitlines()[-TAIL_LINES:])
            self.report = replace(self.report, log=tail)
            where = self.workspace.relative(self.log_file)
            raise SmallkubeError(f"the build failed: {built.last_words}", hint=f"the whole log is in {where}")
        self.report = replace(self.report, system=system)
        booted = self.look.profile == system or self.plan.goal not in (Goal.SWITCH, Goal.BOOT)
        if self.look.system == system and booted:
            self.report = replace(self.report, outcome=Word.UNCHANGED, generation=self.look.generation)
        self.activation = Activation(
            self._connect, self.plan.nonce, system, self.look, self.plan.confirm_seconds, self.stop.is_set
        )

    @contextmanager
    def _log(self) -> Iterator[Callable[[bytes], object]]:
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            with self.log_file.open("wb", buffering=0) as log:
                yield log.write
        except OSError as error:
            raise SmallkubeError(f"{self.log_file} can't be written: {error.strerror}") from error

    def _difference(self) -> None:
        difference = self.session.run(script("difference", self.report.system))
        self.report = replace(self.report, difference=_COLOUR.sub("", difference.text) if difference.ok else "")

    def _dry_activate(self) -> None:
        program = f"{self.report.system}/bin/switch-to-configuration"
        done = self.session.must(Command((program, "dry-activate"), timeout=300))
        self.report = replace(self.report, log="\n".join(filter(None, (done.text, done.stderr.strip()))))

    def _confirm(self) -> None:
        self.session.close()
        verdict = self.activation.confirm()
        if verdict.ending is Ending.CONFIRMED:
            return
        word = Word.ROLLED_BACK if verdict.ending is Ending.ROLLED_BACK else Word.UNKNOWN
        self._end(word, verdict.reason, "\n".join(verdict.log.splitlines()[-TAIL_LINES:]))

    def _commit(self) -> None:
        runs = "the old system runs" if self.plan.goal is Goal.BOOT else "it runs the new system"
        try:
            done = self._again(lambda: self.session.run(script("commit", self.report.system, timeout=COMMIT_SECONDS)))
        except SmallkubeError as error:
            hint = "deploy again, or it may boot the old one"
            raise SmallkubeError(
                f"{runs}; whether the new one boots is not known: {_said(error)}", hint=hint
            ) from error
        if not done.ok:
            raise SmallkubeError(
                f"{runs}; the new one could not be made the one that boots: {done.last_words}",
                hint="mend that and deploy again, or it boots the old one",
            )
        self.report = replace(self.report, generation=done.text.rpartition("\n")[2])

    def _again(self, attempt: Callable[[], T]) -> T:
        """``attempt`` and, should the connection be lost or not be there, once more over a new one."""
        try:
            return attempt()
        except SmallkubeError:
            self.session.close()
            self.session = self._connect()
            self.session.open()
            return attempt()

    def _record(self) -> None:
        if self.report.outcome in (Word.UNCHANGED, Word.UNKNOWN):
            return
        entry = history.Entry(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            operator=operator(),
            goal=self.plan.goal,
            digest=self.plan.digest,
            system=self.report.system,
            generation=self.report.generation,
            outcome=self.report.outcome,
            reason=self.report.reason,
        )
        try:
            self._again(lambda: history.append(self.session, entry))
        except SmallkubeError as error:
            reason = f"not in the machine's history: {_said(error)}"
            self._end(self.report.outcome, "; ".join(filter(None, (self.report.reason, reason))))

    def _leave(self) -> None:
        try:
            if self.locked and self.report.outcome is not Word.UNKNOWN:
                self.session.run(unpushed_script("lock", "drop", self.plan.nonce))
        except SmallkubeError:
            pass  # the next deploy from this workspace takes the lock over, another one after a quarter of an hour
        finally:
            self.session.close()


def operator() -> str:
    """Who is at it, ``user@host``: for the lock and the history."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
