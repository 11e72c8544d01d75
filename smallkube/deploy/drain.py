"""Moving a machine's pods away before what they run on is restarted, and letting them come back afterwards."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.remote.host import Connect

DISTURBING = frozenset({"crio.service", "kubelet.service", "kube-proxy.service", "systemd-networkd.service"})
"""Units whose restart pods on the machine, or those who talk to them, may notice."""


class Drain:
    """One machine's turn to be without pods. ``turn`` limits how many are so at a time."""

    def __init__(
        self,
        inventory: Inventory,
        node: Node,
        connect: Connect,
        turn: AbstractContextManager[object],
    ) -> None:
        self.inventory, self.node, self.connect, self.turn = inventory, node, connect, turn
        self.host = inventory.addressing.node_host(node.index)
        self.drained = self.uncordons = False

    def begin(self, dry_activation: str, purpose: str, stopped: Callable[[], bool]) -> str:
        """Drain if the machine is a member and the activation would disturb its pods.

        Returns why it was not done, "" when it was. Raises SmallkubeError when pods can't be moved away.
        """
        restarted = sorted(unit for unit in DISTURBING if unit in dry_activation)
        if not restarted:
            return "nothing that pods run on restarts"
        try:
            if reason := members.api_down(self.inventory, self.connect):
                return reason
        except SmallkubeError as error:
            return f"the primary can't be asked: {error.message}"
        with self.connect(self.inventory.primary) as primary:
            found = members.member(primary, self.host)
            if found is None:
                return f"{self.host} is not a member"
            self.turn.__enter__()
            self.drained = True
            self.uncordons = found.marked or not found.cordoned
            if self.uncordons:
                members.mark(primary, self.host, purpose)
            members.drain(primary, self.host, members.DRAIN_SECONDS, stopped)
        return ""

    def end(self) -> None:
        """Let pods be scheduled there again, if ``begin`` had moved them away and it was not cordoned before.

        Raises SmallkubeError when the primary can't be asked; the machine then stays cordoned.
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
            self.turn.__exit__(None, None, None)


def turns(at_once: int) -> AbstractContextManager[object]:
    """What ``Drain`` takes as ``turn``: so many machines may be without pods at a time."""
    return threading.BoundedSemaphore(at_once)
