"""What a command works on."""

from dataclasses import dataclass

from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Inventory


@dataclass(frozen=True)
class Cluster:
    """A workspace and the inventory that was read from it."""

    workspace: Workspace
    inventory: Inventory
