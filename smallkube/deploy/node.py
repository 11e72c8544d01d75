"""One machine's part of a deploy: the plan's steps, each in its place."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import facts, gates, health, history
from smallkube.deploy.activation import GOING_BACK_SECONDS, Activation, Ending
from smallkube.deploy.barrier import Barrier, SyncPoint
from smallkube.deploy.drain import Drain
from smallkube.deploy.facts import HostFacts, script, unpushed_script
from smallkube.deploy.gates import Gate
from smallkube.deploy.history import operator
from smallkube.deploy.local_build import BuildHere
from smallkube.deploy.plan import UNTOUCHED, Goal, Plan, Step
from smallkube.deploy.report import EXPECTED, Outcome, Report, Watcher, kept_log, reason_of
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix.bundle import Bundle
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Host
from smallkube.remote.ssh import SshHost, connector

TAIL_LINES = 20
COMMIT_SECONDS = 120
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

T = TypeVar("T")


@dataclass(frozen=True)
class DeployContext:
    """What all nodes of one deploy share."""

    plan: Plan
    bundle: Bundle
    cluster: Cluster
    watcher: Watcher
    stop: threading.Event
    group: Barrier
    drain_turn: AbstractContextManager[object]
    build_turn: threading.Semaphore


class NodeDeploy:
    """The steps of the plan on one node."""

    def __init__(self, job: DeployContext, node: Node) -> None:
        self.job, self.node = job, node
        self.plan, self.bundle, self.workspace = job.plan, job.bundle, job.cluster.workspace
        self.watcher, self.stop = job.watcher, job.stop
        self.session, self.connected = self._connect(), False
        self.report = Report(node.name, EXPECTED[self.plan.goal])
        self.digest = self.plan.digest
        self.log_file = self.workspace.state_dir / "logs" / f"{self.plan.nonce}-{node.name}.log"
        self.gates_before: tuple[Gate, ...] = ()
        self.drain = Drain(job.cluster.inventory, node, connector(job.cluster.workspace), job.drain_turn)
        self.here = BuildHere(self.bundle, node.name, job.build_turn)
        self.locked = False
        self.look: HostFacts
        self.activation: Activation

    def execute(self) -> Report:
        """Run the steps; a step that fails ends them."""
        handlers: dict[Step, Callable[[], None]] = {
            Step.CONNECT: self._open,
            Step.PREFLIGHT: self._preflight,
            Step.PUSH: self._push,
            Step.BUILD: partial(self._build, partial(facts.build, self.session, self.bundle)),
            Step.BUILD_HERE: partial(self._build, partial(self.here.build, self.session)),
            Step.COPY: self._copy,
            Step.DIFFERENCE: self._difference,
            Step.FIND: self._find,
            Step.DRY_ACTIVATE: self._dry_activate,
            Step.GATES: self._gates_now,
            Step.DRAIN: self._begin_drain,
            Step.ARM: self._arm,
            Step.ACTIVATE: lambda: self.activation.activate(self.session),
            Step.CONFIRM: self._confirm,
            Step.COMMIT: self._commit,
            Step.UNCORDON: self.drain.end,
            Step.RECORD: self._record,
        }
        try:
            for step in self.plan.steps:
                if self.report.outcome is not EXPECTED[self.plan.goal] and step is not Step.RECORD:
                    continue
                if self.stop.is_set() and step in UNTOUCHED:
                    raise SmallkubeError("interrupted before anything was activated")
                self.watcher.step(self.node.name, step)
                handlers[step]()
        except SmallkubeError as error:
            self._end(Outcome.FAILED, reason_of(error))
        finally:
            self._leave()
        return self.report

    def _connect(self) -> Host:
        return SshHost(self.workspace, self.node)

    def _end(self, outcome: Outcome, reason: str = "", log: str = "") -> None:
        self.report = replace(self.report, outcome=outcome, reason=reason, log=log or self.report.log)

    def _preflight(self) -> None:
        self._take_lock()
        self.look = facts.look(self.session, self.bundle)
        expected = (self.workspace.hosts_keys_dir / f"{self.node.name}.pub").read_text()
        reasons = health.unfit(self.look, time.time(), expected)
        if reasons:
            raise SmallkubeError("; ".join(reasons))
        if not self.look.has_scripts:
            facts.push(self.session, "scripts", facts.scripts())
        if self.look.armed:
            # Who holds the lock knows that nobody is left to confirm these.
            self.watcher.step(self.node.name, "let an abandoned deploy's rollback happen")
            self.session.run_checked(script("settle", *self.look.armed, timeout=GOING_BACK_SECONDS))
            self.look = facts.look(self.session, self.bundle)

    def _gates_now(self) -> None:
        """Where the peers change, the tunnel has to work afterwards, whatever it did before."""
        self.gates_before = self._gates(self.session, patient=False, tunnel=not self.plan.together)

    def _gates(self, session: Host, *, patient: bool, tunnel: bool) -> tuple[Gate, ...]:
        """What the machine is for, asked of itself and of the primary."""
        measured = gates.measure(session, self.job.cluster.inventory, patient=patient, tunnel=tunnel)
        return (*measured, *self._readiness(session, gates.READY_SECONDS if patient else 1))

    def _readiness(self, session: Host, seconds: int) -> tuple[Gate, ...]:
        inventory = self.job.cluster.inventory
        name = inventory.addressing.node_host(self.node.index)
        if self.node.role == "primary":
            return gates.readiness(session, name, seconds)
        try:
            with SshHost(self.workspace, inventory.primary) as primary:
                return gates.readiness(primary, name, seconds)
        except SmallkubeError as error:
            return (Gate("node Ready", gates.Result.NOT_APPLICABLE, f"the primary can't be asked: {error.message}"),)

    def _examine(self, session: Host) -> list[str]:
        after = self._gates(session, patient=True, tunnel=not self.plan.left_out)
        if self.plan.left_out:
            why = f"{', '.join(self.plan.left_out)} did not learn of the change"
            after = (*after, Gate(gates.TUNNEL, gates.Result.NOT_APPLICABLE, why))
        self.report = replace(self.report, unconfirmed=tuple(gates.unconfirmed(self.gates_before, after)))
        return gates.broken(self.gates_before, after)

    def _arm(self) -> None:
        complaint = self.job.group.wait(self.node.name, SyncPoint.PREPARED, "", self.stop.is_set)
        if complaint:
            raise SmallkubeError(f"nothing was activated: {complaint}")
        self.activation.arm(self.session)

    def _take_lock(self) -> None:
        file = (self.workspace.state_dir / "locks" / self.node.name).stat()
        holder = f"{operator()} {file.st_dev}:{file.st_ino}"
        taken = self.session.run(unpushed_script("lock", "take", operator(), self.plan.nonce, holder))
        if not taken.ok:
            raise SmallkubeError(taken.last_line, hint="wait for that deploy to end")
        self.locked = True

    def _push(self) -> None:
        if not self.look.has_bundle:
            facts.push(self.session, "bundles", self.bundle)
            self.report = replace(self.report, pushed=True)

    def _build(self, build: Callable[[Callable[[bytes], object], Callable[[], bool]], Result]) -> None:
        with kept_log(self.log_file) as reason_of:
            built = build(reason_of, self.stop.is_set)
        system = built.text.rpartition("\n")[2]
        if not built.ok or not system.startswith("/nix/store/"):
            tail = "\n".join(built.stderr.splitlines()[-TAIL_LINES:])
            self.report = replace(self.report, log=tail)
            where = self.workspace.relative(self.log_file)
            raise SmallkubeError(f"the build failed: {built.last_line}", hint=f"the whole log is in {where}")
        self._set_target_system(system)

    def _copy(self) -> None:
        self.here.copy(self.session, partial(self.watcher.step, self.node.name), self.stop.is_set)

    def _find(self) -> None:
        """An earlier generation instead of a build."""
        number = (self.plan.generation,) if self.plan.generation else ()
        found = self.session.run_checked(script("generation", *number)).text.split()
        self.digest = "" if found[2] == "-" else found[2]
        self._set_target_system(found[1])

    def _set_target_system(self, system: str) -> None:
        self.report = replace(self.report, system=system)
        booted = self.look.profile == system or self.plan.goal not in (Goal.SWITCH, Goal.BOOT)
        if self.look.system == system and booted:
            self.report = replace(self.report, outcome=Outcome.UNCHANGED, generation=self.look.generation)
        self.activation = Activation(
            self._connect,
            self.plan.nonce,
            system,
            self.look,
            self.plan.options.confirm_seconds,
            self.stop.is_set,
            self._examine,
            partial(self.job.group.wait, self.node.name),
            partial(self.job.group.leave, self.node.name),
        )

    def _difference(self) -> None:
        difference = self.session.run(script("difference", self.report.system))
        self.report = replace(self.report, difference=_COLOUR.sub("", difference.text) if difference.ok else "")

    def _dry_activate(self) -> None:
        self.report = replace(self.report, log=self._dry_activation())

    def _dry_activation(self) -> str:
        program = f"{self.report.system}/bin/switch-to-configuration"
        done = self.session.run_checked(Command((program, "dry-activate"), timeout=300))
        return "\n".join(filter(None, (done.text, done.stderr.strip())))

    def _begin_drain(self) -> None:
        reason = self.drain.begin(self._dry_activation(), self.plan.nonce, self.stop.is_set)
        if reason:
            self.watcher.step(self.node.name, f"not drained: {reason}")

    def _confirm(self) -> None:
        self._disconnect()
        verdict = self.activation.confirm()
        with suppress(SmallkubeError), kept_log(self.log_file, "ab") as log:  # how it ended counts more than its log
            log(b"\n--- activation\n" + verdict.log.encode())
        if verdict.ending is Ending.CONFIRMED:
            return
        words = {
            Ending.ROLLED_BACK: Outcome.ROLLED_BACK,
            Ending.UNKNOWN: Outcome.UNKNOWN,
            Ending.UNHEALTHY: Outcome.FAILED,
        }
        still = "it runs the new system, no rollback was armed: " if verdict.ending is Ending.UNHEALTHY else ""
        tail = "\n".join(verdict.log.splitlines()[-TAIL_LINES:])
        self._end(words[verdict.ending], still + verdict.reason, tail)

    def _commit(self) -> None:
        runs = "the old system runs" if self.plan.goal is Goal.BOOT else "it runs the new system"
        try:
            done = self._again(lambda: self.session.run(script("commit", self.report.system, timeout=COMMIT_SECONDS)))
        except SmallkubeError as error:
            hint = "deploy again, or it may boot the old one"
            raise SmallkubeError(
                f"{runs}; whether the new one boots is not known: {reason_of(error)}", hint=hint
            ) from error
        if not done.ok:
            raise SmallkubeError(
                f"{runs}; the new one could not be made the one that boots: {done.last_line}",
                hint="mend that and deploy again, or it boots the old one",
            )
        self.report = replace(self.report, generation=done.text.rpartition("\n")[2])

    def _again(self, attempt: Callable[[], T]) -> T:
        """``attempt`` and, should the connection be lost, once more over a new one."""
        try:
            return self._connected(attempt)
        except SmallkubeError:
            self._disconnect()
            return self._connected(attempt)

    def _connected(self, attempt: Callable[[], T]) -> T:
        if not self.connected:
            self._open()
        return attempt()

    def _open(self) -> None:
        self.session.open()
        self.connected = True

    def _disconnect(self) -> None:
        self.session.close()
        self.session, self.connected = self._connect(), False

    def _record(self) -> None:
        known = self.report.outcome is Outcome.UNCHANGED and self.look.deployed == self.digest
        if known or self.report.outcome is Outcome.UNKNOWN:
            return
        entry = history.Entry(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            operator=operator(),
            goal=self.plan.goal,
            digest=self.digest,
            system=self.report.system,
            generation=self.report.generation,
            outcome=self.report.outcome,
            reason=self.report.reason,
        )
        try:
            self._again(lambda: history.append(self.session, entry))
        except SmallkubeError as error:
            reason = f"not in the machine's history: {reason_of(error)}"
            self._end(self.report.outcome, "; ".join(filter(None, (self.report.reason, reason))))

    def _leave(self) -> None:
        try:
            if self.report.outcome is not Outcome.UNKNOWN:
                self.drain.end()
        except SmallkubeError as error:
            self._end(self.report.outcome, "; ".join(filter(None, (self.report.reason, reason_of(error)))))
        try:
            if self.locked and self.report.outcome is not Outcome.UNKNOWN:
                drop = unpushed_script("lock", "drop", self.plan.nonce)
                self._connected(lambda: self.session.run(drop))
        except SmallkubeError:
            pass  # the next deploy from this workspace takes the lock over, another one after a quarter of an hour
        finally:
            self.session.close()
            self.here.end()
