"""Removing a healthy node: drained, out of the inventory, and no Node object left. The machine itself is never asked.

A kubelet registers its node only when it starts (kubernetes pkg/kubelet/kubelet_node_status.go,
registerWithAPIServer): one that is restarted before the deploy that refuses its certificates brings it back, which the
same command then deletes.
"""

from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError
from smallkube.inventory import edit, positions
from smallkube.inventory import load as inventories
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.kube import members
from smallkube.kube.members import Member
from smallkube.operations.engine import Operation, Step
from smallkube.operations.revoke import removed_node
from smallkube.remote.host import Connect


@dataclass(frozen=True)
class Plan:
    """``node`` as it is, or was, in the inventory; ``inside``: it still is. ``member``: its Node object, None without
    one; ``unknown``: why that can't be asked, "" when it could.
    """

    node: Node
    inside: bool
    member: Member | None
    unknown: str


def make(cluster: Cluster, name: str, connect: Connect) -> Plan:
    """What is to be removed. Raises UsageError when ``name`` is the primary, or nothing of it is left."""
    inventory, file = cluster.inventory, cluster.workspace.inventory_file
    inside = any(node.name == name for node in inventory.nodes)
    node = inventory.node(name) if inside else removed_node(inventory, name)
    if inside:
        inventories.parse(edit.remove_node(positions.read_text(file), name), file)
    found, unknown = None, ""
    try:
        if reason := members.api_down(inventory, connect):
            raise SmallkubeError(reason)
        with connect(inventory.primary) as primary:
            found = members.member(primary, inventory.addressing.node_host(node.index))
    except SmallkubeError as error:
        unknown = error.message
    if not (inside or found):
        inventory.node(name)
    return Plan(node, inside, found, unknown)


@dataclass(frozen=True)
class Removal:
    """Carries out ``plan`` on ``cluster``; ``seconds``: for the pods to end."""

    plan: Plan
    cluster: Cluster
    connect: Connect
    seconds: int

    def operation(self) -> Operation:
        """The steps that there are something to do for; nothing is removed before the node is drained."""
        name, member = self.plan.node.name, self.plan.member
        drain = Step(f"drain {name}", self._drain)
        forget = Step(f"remove {name} from inventory.yaml", self._remove_from_inventory)
        unfit = "" if not member or member.ready else f": {name} is not Ready, so they are not waited for"
        delete = Step(f"delete the Node object of {name} and the pods that are left on it{unfit}", self._delete)
        steps = [drain] if self.plan.inside and member and member.ready else []
        steps += [forget] if self.plan.inside else []
        steps += [delete] if member else []
        return Operation(tuple(steps), has_primary=False)

    @property
    def _host(self) -> str:
        return self.cluster.inventory.addressing.node_host(self.plan.node.index)

    def _drain(self) -> None:
        with self.connect(self.cluster.inventory.primary) as primary:
            try:
                members.drain(primary, self._host, self.seconds)
            except SmallkubeError as error:
                name = self.plan.node.name
                hint = f"run the same command again, or inv nodes.uncordon --node {name}"
                raise SmallkubeError(f"{name} is cordoned, but {error.message}", hint=hint) from error

    def _remove_from_inventory(self) -> None:
        file = self.cluster.workspace.inventory_file
        edit.write(file, edit.remove_node(positions.read_text(file), self.plan.node.name))

    def _delete(self) -> None:
        with self.connect(self.cluster.inventory.primary) as primary:
            members.delete(primary, self._host)
