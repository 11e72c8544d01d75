"""One node's part of a deploy: the steps that a plan consists of, and what each does."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from smallkube.core.errors import SmallkubeError
from smallkube.deploy import checks, etcd_versions, facts, history, local_build, node_log
from smallkube.deploy.activation import ROLLBACK_SECONDS, Activation, Barrier, script
from smallkube.deploy.checks import Health
from smallkube.deploy.drain import Drain
from smallkube.deploy.facts import SCRIPTS, DeployFacts
from smallkube.deploy.history import operator
from smallkube.deploy.machine_lock import MachineLock
from smallkube.deploy.plan import EXPECTED, BuildOn, Goal, Plan, Report
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.kube import members
from smallkube.nix import flake
from smallkube.remote import journal, scripts
from smallkube.remote.fleet import NodeOutcome, Watcher, reason_of
from smallkube.remote.host import Command, Host, Result
from smallkube.remote.pool import Pool
from smallkube.secrets.host_keys import read_host_key

JOURNAL_LINES = 15
"""Of each unit that failed."""
COMMIT_SECONDS = 120
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_DIFFERENCE = ("nix", "--extra-experimental-features", "nix-command", "store", "diff-closures", "/run/current-system")

T = TypeVar("T")


class DeployContext:
    """What all nodes of one deploy share."""

    def __init__(self, plan: Plan, cluster: Cluster, watcher: Watcher, pool: Pool) -> None:
        self.plan, self.cluster, self.watcher, self.pool = plan, cluster, watcher, pool
        self.began, self.logs = datetime.now(UTC), cluster.workspace.state_dir / "logs"
        node_log.prune(self.logs)
        self.stop = threading.Event()
        self.barrier = Barrier([node.name for node in plan.nodes] if plan.lockstep else [])
        self.drain_slots = threading.BoundedSemaphore(plan.options.batch or 1)
        self.build_slots = threading.BoundedSemaphore(local_build.AT_ONCE)


class NodeDeploy:
    """A deploy to one node, while it runs."""

    def __init__(self, context: DeployContext, node: Node) -> None:
        self.context, self.node, self.plan = context, node, context.plan
        self.workspace, self.stopped = context.cluster.workspace, context.stop.is_set
        self.step, self.connect = partial(context.watcher.step, node.name), partial(context.pool.connect_anew, node)
        self.report, self.ended = Report(node.name, EXPECTED[self.plan.goal]), False
        self.digest = self.plan.digest
        file = node_log.path(context.logs, context.began, node.name, self.plan.nonce)
        self.log = node_log.NodeLog(file, partial(context.watcher.output, node.name))
        inventory, connect, left_out = context.cluster.inventory, context.pool.connect, self.plan.left_out
        self.drain = Drain(inventory, node, connect, context.drain_slots)
        without_tunnel = f"{', '.join(left_out)} did not get the new peers" if left_out else ""
        self.health = Health(inventory, node, connect, self.plan.lockstep, without_tunnel)
        self.lock = MachineLock(self.connect, self.plan.nonce)
        self.facts: DeployFacts
        self.activation: Activation
        self._host: Host | None = None
        self.cleanup, self._lent = ExitStack(), ExitStack()
        self.cleanup.push(self._lent)
        self.cleanup.callback(self.lock.end)

    def execute(self) -> Report:
        """Run the plan's steps; a step that fails ends them."""
        try:
            for step in steps(self.plan):
                if self.ended and not step.always:
                    continue
                if self.stopped() and step.interruptible:
                    raise SmallkubeError("interrupted before anything was activated")
                self.step(step.title)
                step.run(self)
        except SmallkubeError as error:
            self._end(NodeOutcome.FAILED, reason_of(error))
        finally:
            self._release()
        return self.report

    def _end(self, outcome: NodeOutcome, reason: str = "") -> None:
        self.ended, self.report.outcome, self.report.reason = True, outcome, reason

    @property
    def host(self) -> Host:
        """A connection to the node, that of the step before where there is one."""
        if self._host is None:
            self._host = self._lent.enter_context(self.context.pool.connect(self.node))
        return self._host

    def _give_back(self) -> None:
        self._host = None
        self._lent.close()

    def _disconnect(self) -> None:
        if self._host:
            self._host.close()
        self._give_back()

    def _again(self, attempt: Callable[[], T]) -> T:
        """``attempt`` and, should it fail, once more over a new connection."""
        try:
            return attempt()
        except SmallkubeError:
            self._disconnect()
            return attempt()

    def preflight(self) -> None:
        file = (self.workspace.state_dir / "locks" / self.node.name).stat()
        holder, inspection = f"{file.st_dev}:{file.st_ino}", partial(facts.inspection, self.plan.bundle)
        self.facts = facts.inspected(self.host, self.lock.take(self.host, holder, inspection))
        expected = read_host_key(self.workspace, self.node.name)
        if reasons := checks.unfit(self.facts, time.time(), expected):
            raise SmallkubeError("; ".join(reasons))
        if not self.facts.has_scripts:
            scripts.push(self.host, "scripts", SCRIPTS.bundle)
        if self.facts.armed:
            # While this deploy has the lock, no other one can confirm these.
            self.step("run the rollback of an interrupted deploy")
            self.host.run_checked(script("run-stale-rollbacks", *self.facts.armed, timeout=ROLLBACK_SECONDS))
            self.facts = facts.of_deploy(self.host, self.plan.bundle)

    def push(self) -> None:
        if not self.facts.has_bundle:
            scripts.push(self.host, "bundles", self.plan.bundle)
            self.report.pushed = True

    def build(self) -> None:
        """The build ends with the connection, and with Ctrl-C. A system that runs is not built again of its bundle."""
        last, running = self.facts.last_deploy, self.facts.system
        if last and (last.digest, last.system, self.facts.profile) == (self.digest, running, running):
            self._set_target_system(running)
            return
        arguments = (self.plan.digest, self.node.name)
        command = SCRIPTS.pushed("build", *arguments, timeout=local_build.SILENCE_SECONDS, hold=True)
        self._built(self.host.run(command, on_stderr=self.log.build, stopped=self.stopped))

    def build_locally(self) -> None:
        folder = Path(self.cleanup.enter_context(TemporaryDirectory(prefix="smallkube-")))
        slots, bundle = self.context.build_slots, self.plan.bundle
        self._built(local_build.build(bundle, self.node.name, folder, slots, self.stopped, self.log.build))

    def _built(self, done: Result) -> None:
        system = done.text.rpartition("\n")[2]
        if not done.ok or not system.startswith("/nix/store/"):
            self.report.log = node_log.tail(done.stderr)
            where = self.workspace.relative(self.log.file)
            raise SmallkubeError(f"the build failed: {flake.reason(done.stderr)}", hint=f"the whole log is in {where}")
        self._set_target_system(system)

    def copy(self) -> None:
        local_build.copy(self.host, self.report.system, self.stopped, self.step)

    def find_generation(self) -> None:
        system = facts.generations(self.host).find(self.plan.generation or "")
        deploys = [entry for entry in history.read(self.host) if entry.system == system]
        self.digest = deploys[-1].digest if deploys else ""
        self._set_target_system(system)

    def _set_target_system(self, system: str) -> None:
        self.report.system = system
        if self.facts.system == system and (self.facts.profile == system or not self.plan.commits):
            self._end(NodeOutcome.UNCHANGED)
            self.report.generation = self.facts.generation
        self.activation = Activation(
            self.connect,
            self.plan.nonce,
            system,
            self.facts,
            self.plan.options.confirm_seconds,
            self.node.name,
            self.context.barrier,
            self.stopped,
            self.health.measure_after,
        )

    def compare(self) -> None:
        if self.node.role == "primary" and (self.plan.activates or self.plan.commits):
            etcd_versions.verify(self.host, self.report.system, reversible=self.plan.arms)
        difference = self.host.run(Command((*_DIFFERENCE, self.report.system), title="difference"))
        self.report.difference = _COLOUR.sub("", difference.text) if difference.ok else ""

    def dry_activate(self) -> None:
        self.report.log = self._dry_activation()

    def _dry_activation(self) -> str:
        program = f"{self.report.system}/bin/switch-to-configuration"
        done = self.host.run_checked(Command((program, "dry-activate"), timeout=300))
        return "\n".join(filter(None, (done.text, done.stderr.strip())))

    def begin_drain(self) -> None:
        reason = self.drain.needless(self._dry_activation())
        if not reason and not self.drain.begin(self.plan.nonce, members.DRAIN_SECONDS, self.stopped):
            reason = f"{self.drain.host} is not a member"
        if reason:
            self.step(f"not drained: {reason}")

    def activate(self) -> None:
        self.activation.activate(self.host)

    def confirm(self) -> None:
        self._disconnect()
        verdict = self.activation.confirm()
        self.report.unconfirmed = checks.unconfirmed(self.health.before, self.health.after)
        with suppress(SmallkubeError):  # the outcome matters more than its log
            self.log.write(b"\n--- activation\n" + verdict.log.encode())
        if verdict.outcome:
            self._end(verdict.outcome, verdict.reason)
            self.report.log = node_log.tail(verdict.log)
            with suppress(SmallkubeError):
                self.report.journal = journal.ends(self.host, self.activation.failed_units[:3], JOURNAL_LINES)

    def commit(self) -> None:
        command = script("commit", self.report.system, timeout=COMMIT_SECONDS)
        try:
            done = self._again(lambda: self.host.run_checked(command))
        except SmallkubeError as error:
            runs = "the previous system runs" if self.plan.goal is Goal.BOOT else "it runs the new system"
            message = f"{runs}; it may not boot the new one: {reason_of(error)}"
            raise SmallkubeError(message, hint="fix that and deploy again") from error
        self.report.generation = done.text

    def record(self) -> None:
        report, last = self.report, self.facts.last_deploy
        known = report.outcome is NodeOutcome.UNCHANGED and last is not None and last.digest == self.digest
        if (known and self.plan.keys in ("", self.facts.keys)) or report.outcome is NodeOutcome.UNKNOWN:
            return
        result = (report.system, report.generation, report.outcome, report.reason, self.plan.keys, self.plan.commit)
        entry = history.Entry(history.now(), operator(), self.plan.goal, self.digest, *result)
        try:
            self._again(lambda: history.append(self.host, entry))
        except SmallkubeError as error:
            report.add_reason(f"not in the machine's history: {reason_of(error)}")

    def _release(self) -> None:
        with self.cleanup:
            if self.report.outcome is NodeOutcome.UNKNOWN:
                return
            try:
                self.drain.end()
            except SmallkubeError as error:
                self.report.add_reason(reason_of(error))
            if self.lock.taken and self.plan.drains:
                self._give_back()
                self.drain.end_interrupted()
            self.lock.release(lambda: self.host)


@dataclass(frozen=True)
class Step:
    """One step on one node, ``when`` a plan has it. Before an ``interruptible`` one nothing was activated, and the
    deploy may simply stop; an ``always`` one runs also once the outcome is known."""

    title: str
    run: Callable[[NodeDeploy], object]
    when: Callable[[Plan], bool] = lambda _: True
    interruptible: bool = True
    always: bool = False


STEPS = (
    Step("connect", lambda node: node.host),
    Step("preflight", NodeDeploy.preflight),
    Step("push the configuration", NodeDeploy.push, lambda plan: plan.generation is None),
    Step("build", NodeDeploy.build, lambda plan: plan.builds(BuildOn.TARGET)),
    Step("build locally", NodeDeploy.build_locally, lambda plan: plan.builds(BuildOn.LOCAL)),
    Step("copy the closure", NodeDeploy.copy, lambda plan: plan.builds(BuildOn.LOCAL)),
    Step("find the generation", NodeDeploy.find_generation, lambda plan: plan.generation is not None),
    Step("compare closures", NodeDeploy.compare),
    Step("show what activation would do", NodeDeploy.dry_activate, lambda plan: plan.goal is Goal.DRY_ACTIVATE),
    Step("record the health", lambda node: node.health.measure_before(node.host), lambda plan: plan.activates),
    Step("drain if it is a member", NodeDeploy.begin_drain, lambda plan: plan.drains),
    Step("arm the rollback", lambda node: node.activation.arm(node.host), lambda plan: plan.arms),
    Step("activate", NodeDeploy.activate, lambda plan: plan.activates, interruptible=False),
    Step("confirm over a new connection", NodeDeploy.confirm, lambda plan: plan.activates, interruptible=False),
    Step("commit", NodeDeploy.commit, lambda plan: plan.commits, interruptible=False),
    Step("uncordon", lambda node: node.drain.end(), lambda plan: plan.drains, interruptible=False),
    Step("record", NodeDeploy.record, lambda plan: plan.activates or plan.commits, interruptible=False, always=True),
)


def steps(plan: Plan) -> tuple[Step, ...]:
    """The plan's steps on each node, in order: what a dry run prints is what runs."""
    return tuple(step for step in STEPS if step.when(plan))
