"""Moving a node's pods away before what they run on is restarted, and making it schedulable again afterwards."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.kube.members import Member
from smallkube.remote.host import Connect

DISTURBING = frozenset({"crio.service", "kubelet.service", "kube-proxy.service", "systemd-networkd.service"})
"""Units whose restart may disturb the pods on the node, or their clients."""


class Drain:
    """The drain of one node. ``slots`` limits how many nodes are drained at the same time.

    ``begun``: its pods were to be evicted; ``cordoned``: by us, to be uncordoned again.
    """

    def __init__(
        self, inventory: Inventory, node: Node, connect: Connect, slots: threading.Semaphore | None = None
    ) -> None:
        self.inventory, self.node, self.connect = inventory, node, connect
        self.slots = slots or threading.Semaphore()
        self.host = inventory.addressing.node_host(node.index)
        self.begun = self.cordoned = False
        self._slot = ExitStack()

    def needless(self, dry_activation: str) -> str:
        """Why this activation needs no drain, or can have none; "" otherwise."""
        if not any(unit in dry_activation for unit in DISTURBING):
            return "no unit that pods depend on restarts"
        try:
            return members.api_down(self.inventory, self.connect)
        except SmallkubeError as error:
            return f"the primary is unreachable: {error.message}"

    def begin(self, purpose: str, seconds: int, stopped: Callable[[], bool]) -> Member | None:
        """Evict the pods of a member; the member as it was before, None when it is none.

        Raises SmallkubeError when pods can't be moved away.
        """
        self._slot.enter_context(self.slots)
        with self.connect(self.inventory.primary) as primary:
            if found := members.member(primary, self.host):
                self.begun, self.cordoned = True, found.marked or not found.cordoned
                if self.cordoned:
                    members.mark(primary, self.host, purpose)
                members.drain(primary, self.host, seconds, stopped)
        if found is None:
            self.end()
        return found

    def end(self) -> None:
        """Uncordon the node, if it is we who cordoned it; where that fails, it is not tried again.

        Raises SmallkubeError when the primary is unreachable.
        """
        cordoned, self.cordoned = self.cordoned, False
        try:
            if cordoned:
                with self.connect(self.inventory.primary) as primary:
                    members.uncordon(primary, self.host)
        except SmallkubeError as error:
            hint = f"inv nodes.uncordon --node {self.node.name}"
            raise SmallkubeError(f"it is still cordoned: {error.message}", hint=hint) from error
        finally:
            self._slot.close()

    def end_interrupted(self) -> None:
        """Uncordon a node that an interrupted deploy has left cordoned, as its mark tells, though this one did not have
        to drain it. If that can't be done now, the next deploy does it.
        """
        with suppress(SmallkubeError):
            if self.begun:
                return
            with self.connect(self.inventory.primary) as primary:
                if members.is_marked(primary, self.host):
                    members.uncordon(primary, self.host)
