"""A rolling reboot: one machine at a time, each back and healthy before the next one goes.

That a machine has restarted shows in its boot id (random(4): a new one at each boot), never by having been
away for a while.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from smallkube.core.errors import SmallkubeError, UsageError, one_line, split_lines
from smallkube.core.files import lock
from smallkube.core.polling import wait_until
from smallkube.core.workspace import Workspace
from smallkube.deploy.drain import Drain
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.kube.members import Member
from smallkube.remote import fleet
from smallkube.remote.fleet import NodeOutcome, Report, Watcher, reason_of
from smallkube.remote.host import Command, Connect, Host

POLL_SECONDS = 1.0
UP = ("running", "degraded")
"""What systemctl(1) is-system-running says once start-up has ended; "degraded" is decided by the failed units."""
_DEPLOY_LOCK = ("find", "/run/smallkube/lock", "-maxdepth", "0", "-mmin", "-15", "-exec", "cat", "{}/owner", ";")


@dataclass(frozen=True)
class Plan:
    """Who is restarted in which order. ``undrained`` says why nothing is drained, "" when members are.

    ``return_seconds``: how long a machine may take to be back; servers test their memory before they boot.
    """

    nodes: tuple[Node, ...]
    undrained: str
    return_seconds: int
    drain_seconds: int


@dataclass(frozen=True)
class BootFacts:
    """A machine's boot id; ``state`` as systemctl is-system-running has it; the units that have failed."""

    boot_id: str
    state: str
    failed: frozenset[str]


def make(nodes: Sequence[Node], undrained: str, return_seconds: int, drain_seconds: int) -> Plan:
    """The workers by their indices, the primary last: drained pods and the API stay as long as possible."""
    order = sorted(nodes, key=lambda node: (node.role == "primary", node.index))
    return Plan(tuple(order), undrained, return_seconds, drain_seconds)


def read(machine: Host) -> BootFacts:
    """Read a machine's boot id and state."""
    boot_id = machine.run_checked(Command(("cat", "/proc/sys/kernel/random/boot_id"), root=False)).text.strip()
    state = machine.run(Command(("systemctl", "is-system-running"), root=False)).text.strip()
    listing = ("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full")
    units = machine.run_checked(Command(listing, root=False)).text
    return BootFacts(boot_id, state, frozenset(line.split()[0] for line in split_lines(units) if line.strip()))


def execute(
    plan: Plan, inventory: Inventory, workspace: Workspace, connect: Connect, watcher: Watcher
) -> tuple[Report, ...]:
    """Restart the plan's nodes one after the other; the first that does not come back healthy is the last one.

    Ctrl-C ends it at the next step; a node that is restarting by then is reported as unknown.
    """
    stop = threading.Event()

    def work(node: Node) -> Report:
        with lock(workspace.state_dir / "locks" / node.name, f"rebooting {node.name}"):
            return NodeReboot(node, plan, inventory, connect, watcher, stop).execute()

    return fleet.report([[node] for node in plan.nodes], work, watcher, stop, kind=Report)


class NotBackError(SmallkubeError):
    """A machine whose state is not known; the message says what is."""


@dataclass
class NodeReboot:
    """The reboot of one machine."""

    node: Node
    plan: Plan
    inventory: Inventory
    connect: Connect
    watcher: Watcher
    stop: threading.Event
    _after: BootFacts = field(init=False)

    @cached_property
    def drain(self) -> Drain:
        return Drain(self.inventory, self.node, self.connect)

    def execute(self) -> Report:
        """Drain, restart, wait, uncordon. Raises SmallkubeError for whatever ends it but an unknown state."""
        try:
            before, member = self._drain_and_restart()
            self._wait_and_uncordon(before, member)
        except SmallkubeError as error:
            left = f"; it stays cordoned: inv nodes.uncordon --node {self.node.name}" if self.drain.cordoned else ""
            if isinstance(error, NotBackError):
                return Report(self.node.name, NodeOutcome.UNKNOWN, reason=f"{error.message}{left}")
            raise SmallkubeError(f"{reason_of(error)}{left}") from error
        remark = ""
        if member and member.cordoned and not member.marked:
            remark = "stays cordoned, as it was before"
        elif not member and not self.plan.undrained:
            remark = "not a member of the cluster, so not drained"
        return Report(self.node.name, NodeOutcome.REBOOTED, reason=remark)

    def _drain_and_restart(self) -> tuple[BootFacts, Member | None]:
        """The machine and the member as they were before; when it is not restarted, it is uncordoned again."""
        try:
            with self.connect(self.node) as machine:
                self._step("check the machine")
                before = read(machine)
                if owner := machine.run(Command(_DEPLOY_LOCK)).text.strip():
                    raise SmallkubeError(f"a deploy is under way there: {owner}", hint="wait until it has ended")
                member = None
                if not self.plan.undrained:
                    self._step("drain if it is a member")
                    member = self.drain.begin("reboot", self.plan.drain_seconds, self.stop.is_set)
                self._restart(machine)
            return before, member
        except SmallkubeError as error:
            try:
                self.drain.end()
            except SmallkubeError as left:
                raise SmallkubeError(f"{reason_of(error)}; {reason_of(left)}") from error
            raise

    def _restart(self, machine: Host) -> None:
        if self.stop.is_set():
            raise SmallkubeError("interrupted before it was restarted")
        self._step("restart")
        try:
            machine.run_checked(Command(("systemctl", "--no-block", "reboot"), timeout=20))
        except UsageError:
            raise
        except SmallkubeError as error:
            # The connection may go down with the machine; one that stays up is found out by its boot id.
            self._step(one_line(error.message))

    def _wait_and_uncordon(self, before: BootFacts, member: Member | None) -> None:
        deadline = time.monotonic() + self.plan.return_seconds
        self._step("wait until it is back")
        self._await(deadline, lambda: self._not_back(before))
        if broken := sorted(self._after.failed - before.failed):
            raise SmallkubeError(f"it is back, but these units failed: {', '.join(broken)}")
        if member:
            self._step("wait until it is Ready")
            self._await(deadline, self._not_ready)
            self.drain.end()

    def _await(self, deadline: float, missing: Callable[[], str]) -> None:
        def ask() -> list[str]:
            if self.stop.is_set():
                raise NotBackError("interrupted while it was restarting")
            try:
                return [text] if (text := missing()) else []
            except SmallkubeError as error:
                return [one_line(error.message)]

        failure = f"not back after {self.plan.return_seconds} s"
        wait_until(ask, deadline - time.monotonic(), failure, error=NotBackError, interval=POLL_SECONDS)

    def _not_back(self, before: BootFacts) -> str:
        with self.connect(self.node) as machine:
            now = self._after = read(machine)
        if now.boot_id == before.boot_id:
            return "it has not restarted"
        return "" if now.state in UP else f"it has restarted, and systemd says {now.state or 'nothing'}"

    def _not_ready(self) -> str:
        """Ready as reported since the restart: what the API server has from before it says nothing."""
        with self.connect(self.inventory.primary) as primary:
            found = members.member(primary, self.drain.host)
        ready = found and found.ready and found.boot_id == self._after.boot_id
        return "" if ready else "it is back, but its kubelet has not reported Ready"

    def _step(self, text: str) -> None:
        self.watcher.step(self.node.name, text)
