"""Moving a node's pods away before what they run on is restarted, and making it schedulable again afterwards."""

import threading
from collections.abc import Callable
from contextlib import suppress

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.remote.host import Connect

DISTURBING = frozenset({"crio.service", "kubelet.service", "kube-proxy.service", "systemd-networkd.service"})
"""Units whose restart may disturb the pods on the node, or their clients."""


class Drain:
    """The drain of one node. ``slots`` limits how many nodes are drained at the same time."""

    def __init__(self, inventory: Inventory, node: Node, connect: Connect, slots: threading.Semaphore) -> None:
        self.inventory, self.node, self.connect, self.slots = inventory, node, connect, slots
        self.host = inventory.addressing.node_host(node.index)
        self.begun = self.drained = self.uncordons = False

    def begin(self, dry_activation: str, purpose: str, stopped: Callable[[], bool]) -> str:
        """Drain if the node is a member and the activation would disturb its pods.

        Returns why it was not drained, "" when it was. Raises SmallkubeError when pods can't be moved away.
        """
        if not any(unit in dry_activation for unit in DISTURBING):
            return "no unit that pods depend on restarts"
        try:
            if reason := members.api_down(self.inventory, self.connect):
                return reason
        except SmallkubeError as error:
            return f"the primary is unreachable: {error.message}"
        with self.connect(self.inventory.primary) as primary:
            found = members.member(primary, self.host)
            if found is None:
                return f"{self.host} is not a member"
            self.slots.acquire()
            self.begun = self.drained = True
            self.uncordons = found.marked or not found.cordoned
            if self.uncordons:
                members.mark(primary, self.host, purpose)
            members.drain(primary, self.host, members.DRAIN_SECONDS, stopped)
        return ""

    def end(self) -> None:
        """Uncordon the node, if ``begin`` had drained it and it was not cordoned before.

        Raises SmallkubeError when the primary is unreachable; the node then stays cordoned.
        """
        if not self.drained:
            return
        self.drained = False
        try:
            if self.uncordons:
                with self.connect(self.inventory.primary) as primary:
                    members.uncordon(primary, self.host)
        except SmallkubeError as error:
            hint = f"inv nodes.uncordon --node {self.node.name}"
            raise SmallkubeError(f"it is still cordoned: {error.message}", hint=hint) from error
        finally:
            self.slots.release()

    def end_interrupted(self) -> None:
        """Uncordon a node that an interrupted deploy has left cordoned, as its mark tells, though this one did not have
        to drain it. If that can't be done now, the next deploy does it.
        """
        with suppress(SmallkubeError):
            if self.begun or members.api_down(self.inventory, self.connect):
                return
            with self.connect(self.inventory.primary) as primary:
                found = members.member(primary, self.host)
                if found and found.marked:
                    members.uncordon(primary, self.host)
