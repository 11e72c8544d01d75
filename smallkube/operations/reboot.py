"""A rolling reboot: one machine at a time, each back and well before the next one goes.

That a machine has restarted is told by its boot id (random(4): it is made anew at each boot), never by having been
away for a while.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from smallkube.core.errors import SmallkubeError, UsageError, one_line
from smallkube.core.workspace import Workspace, lock
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.kube.members import Member
from smallkube.remote.command import Command
from smallkube.remote.host import Connect, Host
from smallkube.remote.rolling import NodeOutcome, Report, Watcher, one_by_one, reason_of

RETURN_SECONDS = 600
"""How long a machine may take by default; servers test their memory before they boot."""
POLL_SECONDS = 1.0

T = TypeVar("T")

UP = ("running", "degraded")
"""What systemctl(1) is-system-running says once start-up has ended; "degraded" is judged by the failed units."""
_HOLDER = ("find", "/run/smallkube/lock", "-maxdepth", "0", "-mmin", "-15", "-exec", "cat", "{}/owner", ";")


@dataclass(frozen=True)
class Plan:
    """Who is restarted in which order. ``undrained`` says why nothing is drained, "" when members are."""

    nodes: tuple[Node, ...]
    undrained: str
    return_seconds: int = RETURN_SECONDS
    drain_seconds: int = members.DRAIN_SECONDS


@dataclass(frozen=True)
class Look:
    """A machine's own word on itself; ``state`` as systemctl is-system-running has it."""

    boot_id: str
    state: str
    failed: frozenset[str]


def order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The workers by their indices, the primary last: drained pods and the API stay as long as possible."""
    return tuple(sorted(nodes, key=lambda node: (node.role == "primary", node.index)))


def make(nodes: Sequence[Node], undrained: str, return_seconds: int, drain_seconds: int) -> Plan:
    """The plan; raises UsageError on times that can't be meant."""
    for flag, seconds in (("--timeout", return_seconds), ("--drain-timeout", drain_seconds)):
        if not 10 <= seconds <= 86_400:
            raise UsageError(f"{flag} {seconds}: must be from 10 to 86400 seconds")
    return Plan(order(nodes), undrained, return_seconds, drain_seconds)


def look(machine: Host) -> Look:
    """Read a machine's boot id and state."""
    boot_id = machine.run_checked(Command(("cat", "/proc/sys/kernel/random/boot_id"), root=False)).text.strip()
    state = machine.run(Command(("systemctl", "is-system-running"), root=False)).text.strip()
    units = machine.run_checked(
        Command(("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full"), root=False)
    )
    return Look(boot_id, state, frozenset(line.split()[0] for line in units.text.splitlines() if line.strip()))


def execute(
    plan: Plan, inventory: Inventory, workspace: Workspace, connect: Connect, watcher: Watcher
) -> tuple[Report, ...]:
    """Restart the plan's nodes one after the other; the first that does not come back well is the last one.

    Ctrl-C ends it at the next step; a node that is restarting by then is reported as unknown.
    """
    stop = threading.Event()

    def work(node: Node) -> Report:
        with lock(workspace.state_dir / "locks" / node.name, f"rebooting {node.name}"):
            return NodeReboot(node, plan, inventory, connect, watcher, stop).execute()

    return one_by_one(plan.nodes, work, watcher, stop)


class NotBackError(Exception):
    """A machine whose state is not known; the text says what is."""


@dataclass
class NodeReboot:
    """One machine's turn."""

    node: Node
    plan: Plan
    inventory: Inventory
    connect: Connect
    watcher: Watcher
    stop: threading.Event
    _admit_again: bool = False

    @property
    def host(self) -> str:
        return self.inventory.addressing.node_host(self.node.index)

    def execute(self) -> Report:
        """Drain, restart, wait, admit again. Raises SmallkubeError for whatever ends it but an unknown state."""
        try:
            before, joined = self._drain_and_reboot()
            return self._wait_and_uncordon(before, joined)
        except NotBackError as error:
            return Report(self.node.name, NodeOutcome.UNKNOWN, reason=f"{error}{self._left()}")
        except SmallkubeError as error:
            raise SmallkubeError(f"{reason_of(error)}{self._left()}") from error

    def _drain_and_reboot(self) -> tuple[Look, Member | None]:
        self.watcher.step(self.node.name, "check the machine")
        with self.connect(self.node) as machine:
            before = look(machine)
            self._refuse_during_deploy(machine)
            joined = self._drain()
            self._restart(machine)
        return before, joined

    def _wait_and_uncordon(self, before: Look, joined: Member | None) -> Report:
        deadline = time.monotonic() + self.plan.return_seconds
        self.watcher.step(self.node.name, "wait until it is back")
        after = self._await(deadline, lambda: self._back(before))
        if broken := sorted(after.failed - before.failed):
            raise SmallkubeError(f"it is back, but these units failed: {', '.join(broken)}")
        if joined:
            self.watcher.step(self.node.name, "wait until it is Ready")
            self._await(deadline, lambda: self._ready(after.boot_id))
            self._uncordon()
        return Report(self.node.name, NodeOutcome.REBOOTED, reason=self._remark(joined))

    def _refuse_during_deploy(self, machine: Host) -> None:
        holder = machine.run(Command(_HOLDER)).text.strip()
        if holder:
            raise SmallkubeError(f"a deploy is under way there: {holder}", hint="wait until it has ended")

    def _drain(self) -> Member | None:
        """Evict the pods of a member; the member as it was before, None when it is none (or nothing is drained)."""
        if self.plan.undrained:
            return None
        with self.connect(self.inventory.primary) as primary:
            found = members.member(primary, self.host)
            if found is None:
                return None
            self.watcher.step(self.node.name, "drain")
            self._admit_again = found.marked or not found.cordoned
            try:
                if self._admit_again:
                    members.mark(primary, self.host, "reboot")
                members.drain(primary, self.host, self.plan.drain_seconds, self.stop.is_set)
            except SmallkubeError:
                self._take_back()
                raise
        return found

    def _take_back(self) -> None:
        with suppress(SmallkubeError):
            self._uncordon()

    def _restart(self, machine: Host) -> None:
        if self.stop.is_set():
            self._take_back()
            raise SmallkubeError("interrupted before it was restarted")
        self.watcher.step(self.node.name, "restart")
        try:
            machine.run_checked(Command(("systemctl", "--no-block", "reboot"), timeout=20))
        except UsageError:
            self._take_back()
            raise
        except SmallkubeError as error:
            # The connection may go down with the machine; one that stays up is found out by its boot id.
            self.watcher.step(self.node.name, one_line(error.message))

    def _back(self, before: Look) -> tuple[Look | None, str]:
        with self.connect(self.node) as machine:
            now = look(machine)
        if now.boot_id == before.boot_id:
            return None, "it has not restarted"
        return (now, "") if now.state in UP else (None, f"it has restarted, and systemd says {now.state or 'nothing'}")

    def _ready(self, boot_id: str) -> tuple[Member | None, str]:
        """Ready as reported since the restart: what the API server has from before it says nothing."""
        with self.connect(self.inventory.primary) as primary:
            found = members.member(primary, self.host)
        if found and found.ready and found.boot_id == boot_id:
            return found, ""
        return None, "it is back, but its kubelet has not reported Ready"

    def _await(self, deadline: float, ask: Callable[[], tuple[T | None, str]]) -> T:
        last = "nothing was heard of it"
        while time.monotonic() < deadline:
            try:
                answer, last = ask()
            except SmallkubeError as error:
                answer, last = None, one_line(error.message)
            if answer is not None:
                return answer
            if self.stop.wait(POLL_SECONDS):
                raise NotBackError("interrupted while it was restarting")
        raise NotBackError(f"not back after {self.plan.return_seconds} s: {last}")

    def _uncordon(self) -> None:
        if self._admit_again:
            with self.connect(self.inventory.primary) as primary:
                members.uncordon(primary, self.host)
            self._admit_again = False

    def _left(self) -> str:
        return f"; it stays cordoned: inv nodes.uncordon --node {self.node.name}" if self._admit_again else ""

    def _remark(self, joined: Member | None) -> str:
        if self.plan.undrained:
            return ""
        if joined is None:
            return "not a member of the cluster, so not drained"
        return "stays cordoned, as it was before" if joined.cordoned and not joined.marked else ""
