"""Undoing a machine as a node: its services, their state, its pods, images, links, firewall tables and secrets.

NixOS stays as it is, and so do the ways to log in: its configuration is not changed, and starts the services again when
the machine does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node, Ssh
from smallkube.kube import members
from smallkube.operations.machines import SCRIPTS
from smallkube.operations.revoke import removed_node
from smallkube.remote import scripts
from smallkube.remote.host import Connect, Host
from smallkube.secrets import policy

SECONDS = 900
"""Without output, the machine is given up after so long."""
STEPS = (
    "stop the kubelet, the other services of the cluster, all pods and CRI-O (on the primary also etcd)",
    "unmount what is mounted below /var/lib/kubelet and /var/lib/containers",
    "remove the state of kubelet, CRI-O, CNI, etcd and API server, with images and logs, and /var/lib/smallkube",
    "remove the links wgkube and brkube, and the firewall tables kube-guard, kube-nat and kube-proxy",
    "remove the cluster's secrets below /run",
)
KEPT = "NixOS and its generations, SSH and its keys, /var/lib/local-path-provisioner, volumes on other machines"


@dataclass(frozen=True)
class Target:
    """The machine ``node``, and the ``secrets`` (names under /run/agenix) that the cluster delivered to it."""

    node: Node
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """What ``reset.sh`` prints: units that it stopped, what it removed, and a line for each fault; nothing is removed
    while a unit still runs.
    """

    stopped: tuple[str, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...]


def target(cluster: Cluster, name: str, ssh: Mapping[str, str | int], *, force: bool) -> Target:
    """The machine to be reset. ``ssh``: how it is reached, as in the inventory, of one that is not there any more.

    Raises UsageError for a node of the inventory, unless with ``force``, and where it is not known how to reach it.
    """
    inventory = cluster.inventory
    inside = any(node.name == name for node in inventory.nodes)
    if inside and not force:
        hint = f"remove it first: inv nodes.remove {name}; or --force"
        raise UsageError(f"{name} is a node of inventory.yaml", hint=hint)
    if inside and ssh:
        hint = "leave out --ssh-host, --user, --port and --become"
        raise UsageError(f"inventory.yaml says how {name} is reached", hint=hint)
    if not inside and "host" not in ssh:
        raise UsageError(f"{name} is not in inventory.yaml", hint="give the address where it is reached: --ssh-host")
    node = inventory.node(name) if inside else _outside(inventory, name, ssh)
    return Target(node, _secrets(inventory.model_copy(update={"nodes": (*inventory.nodes, node)}), name))


def _outside(inventory: Inventory, name: str, ssh: Mapping[str, str | int]) -> Node:
    """A node that is not in the inventory, reached as ``ssh`` says."""
    try:
        reached = Ssh.model_validate(dict(ssh))
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--ssh-host" if first["loc"][0] == "host" else f"--{first['loc'][0]}"
        raise UsageError(f"{flag} {first['input']}: {first['msg']}") from error
    for node in inventory.nodes:
        if (node.ssh.host, node.ssh.port) == (reached.host, reached.port):
            raise UsageError(f"at {reached.host}, port {reached.port}, is {node.name} of inventory.yaml")
    return removed_node(inventory, name).model_copy(update={"ssh": reached})


def _secrets(inventory: Inventory, name: str) -> tuple[str, ...]:
    rows = [row for row in (*policy.secrets_of(inventory), *policy.node_tokens(inventory)) if name in row.readers]
    return tuple(dict.fromkeys(each.name_on(name) for row in rows for each in (row, *row.staged)))


def refuse_member(inventory: Inventory, node: Node, connect: Connect) -> str:
    """Why it is not known whether the cluster has a Node object of it, "" when it has none. Raises UsageError when it
    has one.
    """
    host = inventory.addressing.node_host(node.index)
    try:
        if reason := members.api_down(inventory, connect):
            return reason
        with connect(inventory.primary) as primary:
            found = members.member(primary, host)
    except SmallkubeError as error:
        return error.message
    if found:
        hint = f"delete it: inv nodes.remove {node.name}; or --force"
        raise UsageError(f"{node.name} still has a Node object in the cluster", hint=hint)
    return ""


def execute(host: Host, found: Target) -> Done:
    """Reset the machine; what could not be removed is in the answer. Raises SmallkubeError also while a deploy there is
    not confirmed: nothing was changed then.
    """
    return scripts.read(host, SCRIPTS.sent("reset", *found.secrets, timeout=SECONDS), Done)
