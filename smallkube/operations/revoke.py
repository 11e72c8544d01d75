"""Revoke a compromised node: every other node forgets it, and its credentials are verified to be refused.

What the node could read stays in keys/ until the others are verified to have forgotten it, and its files are removed
last: so inventory and keys/ say where a revocation stands. The node itself is never asked for anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import write_file
from smallkube.inventory import edit, positions
from smallkube.inventory import load as inventories
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube.members import KUBECTL, api_down
from smallkube.operations import referenced_secrets, tokens
from smallkube.operations.engine import Operation, Step, update_keys
from smallkube.operations.machines import ask_all
from smallkube.remote.command import Command
from smallkube.remote.host import Connect, Host
from smallkube.secrets import age, kinds, policy, transaction
from smallkube.secrets.header import parse_header
from smallkube.secrets.host_keys import read_host_key
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Change, changing_keys, read_keys

NAME = "revoke"
_AGAIN = "run the same command again"


@dataclass(frozen=True)
class Plan:
    """``node`` as it is, or was, in the inventory; ``inside``: it still is. ``others``: the cluster without it.

    ``own``: its secrets, and ``certificates``: their files, as far as they are in keys/. ``shared``: other secrets that
    it can read: none, unless keys/ has drifted from the policy.
    """

    node: Node
    inside: bool
    others: Cluster
    own: tuple[Secret, ...]
    certificates: tuple[str, ...]
    shared: tuple[Secret, ...]


def make(cluster: Cluster, name: str) -> Plan:
    """What is to be revoked. Raises UsageError when ``name`` is the primary, or nothing of it is left anywhere."""
    inventory, keys = cluster.inventory, read_keys(cluster.workspace)
    if name == inventory.primary.name:
        raise UsageError(f"{name} is the primary and can't be removed")
    inside = any(node.name == name for node in inventory.nodes)
    node = inventory.node(name) if inside else _removed_node(inventory, name)
    rest = tuple(each for each in inventory.nodes if each.name != name)
    with_it = inventory.model_copy(update={"nodes": (*rest, node)})
    rows = [each for row in policy.secrets_of(with_it) if row.node == name for each in (row, *row.versions)]
    own = tuple(row for row in rows if row.file in keys.files)
    issued = [row.certificate.file for row in rows if row.certificate]
    host_key = read_host_key(cluster.workspace, name)
    if not inside and not own and not host_key:
        raise UsageError(f"no node {name!r} in the inventory, and nothing of it in keys/")
    shared: tuple[Secret, ...] = ()
    if host_key:
        foreign = [row for row in policy.expected(inventory, keys.files) if row.node != name and row.file in keys.files]
        shared = tuple(row for row in foreign if host_key.tag in parse_header(keys.files[row.file], row.file).ssh_tags)
    others = Cluster(cluster.workspace, inventory.model_copy(update={"nodes": rest}))
    return Plan(node, inside, others, own, tuple(file for file in issued if file in keys.certificates), shared)


def _removed_node(inventory: Inventory, name: str) -> Node:
    """One that is in the inventory no more; where it was reached no longer matters."""
    match = inventories.NODE_NAME.fullmatch(name)
    if not match or int(match[1]) > inventories.MAX_INDEX:
        return inventory.node(name)
    return inventory.primary.model_copy(update={"name": name, "index": int(match[1])})


@dataclass
class Revocation:
    """What it takes to carry out a plan; ``deploy`` is given ``cluster``. ``master`` is None in a dry run.

    ``exposed``: Secrets (NAMESPACE/NAME) that pods on the node used, None when that could not be asked; ``removed``:
    files removed from keys/.
    """

    plan: Plan
    master: age.Master | None
    connect: Connect
    deploy: Callable[..., object]
    exposed: tuple[str, ...] | None = None
    removed: tuple[str, ...] = ()

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        plan, name = self.plan, self.plan.node.name
        forget = Step(f"remove {name} from inventory.yaml", self._remove_from_inventory)
        again = f"; re-encrypt {', '.join(row.name for row in plan.shared)} without it" if plan.shared else ""
        files = ", ".join((*(row.file for row in plan.own), f"hosts/{name}.pub"))
        steps = (
            Step(f"list the Secrets that pods on {name} use", self._list_exposed),
            *((forget,) if plan.inside else ()),
            Step(f"remove {name} from peers.json and secrets.nix{again}", lambda: update_keys(plan.others)),
            Step(
                "deploy all other nodes in lockstep, without its token and WireGuard key",
                lambda: self.deploy(cluster=plan.others),
            ),
            Step(f"delete the Node object of {name} and its pods", self._delete_node),
            Step("verify that its token is refused", self._verify_refused),
            Step("verify that no other node has its WireGuard key", self._verify_forgotten),
            Step(f"delete its files in keys/: {files}", self._delete_files),
        )
        return Operation(NAME, steps, lambda _: not plan.inside)

    @property
    def _host(self) -> str:
        return self.plan.others.inventory.addressing.node_host(self.plan.node.index)

    def _open(self, kind: Kind) -> dict[Secret, bytes]:
        """Its secrets of this kind: to try them when they must work no more."""
        assert self.master
        keys = read_keys(self.plan.others.workspace)
        return {row: transaction.opened(keys, self.master, row) for row in self.plan.own if row.kind is kind}

    def _list_exposed(self) -> None:
        """Also finds out, before anything is changed, whether the primary answers and the credentials can be opened."""
        self._open(Kind.TOKEN), self._open(Kind.WIREGUARD)
        if not api_down(self.plan.others.inventory, self.connect):
            self.exposed = referenced_secrets.secrets_of_pods(self._kubectl("get", "pods", "--output=json", *self._on))

    def _remove_from_inventory(self) -> None:
        file = self.plan.others.workspace.inventory_file
        text = edit.remove_node(positions.read_text(file), self.plan.node.name)
        inventories.parse(text, file)
        write_file(file, text, mode=file.stat().st_mode & 0o777)

    def _delete_node(self) -> None:
        """Its token is refused by now, so that its kubelet can't create the Node object again.

        Its pods are not waited for: only its kubelet could report that they have ended.
        """
        self._kubectl("delete", "node", self._host, "--ignore-not-found", "--wait=false")
        self._kubectl("delete", "pods", "--grace-period=0", "--force", "--wait=false", *self._on)
        if left := self._kubectl("get", "node", self._host, "--ignore-not-found", "--output=name").strip():
            raise SmallkubeError(f"{left} still exists", hint=_AGAIN)

    def _verify_refused(self) -> None:
        if opened := self._open(Kind.TOKEN):
            tokens.verify(self.plan.others.inventory.primary, self.connect, opened, "refused")

    def _verify_forgotten(self) -> None:
        public = {kinds.wireguard_public(key, row.file) for row, key in self._open(Kind.WIREGUARD).items()}

        def has_it(host: Host) -> bool:
            return not public.isdisjoint(host.run_checked(Command(("wg", "show", "wgkube", "peers"))).text.split())

        found, wrong = ask_all(self.plan.others.inventory.nodes, self.connect, has_it)
        if wrong := [*wrong, *(f"{node} still has it as a peer" for node, there in found.items() if there)]:
            raise SmallkubeError(f"its WireGuard key may still be accepted: {', '.join(wrong)}", hint=_AGAIN)

    def _delete_files(self) -> None:
        """The secrets last, and all at once: as long as they are there, the same command can resume."""
        name, own = self.plan.node.name, self.plan.own
        public = list(self.plan.certificates)
        with changing_keys(self.plan.others.workspace):
            if (self.plan.others.workspace.hosts_keys_dir / f"{name}.pub").exists():
                public.append(f"hosts/{name}.pub")
            transaction.apply(self.plan.others, Change(removed=own, public=dict.fromkeys(public)))
        self.removed = (*(row.file for row in own), *public)

    @property
    def _on(self) -> tuple[str, ...]:
        return ("--all-namespaces", f"--field-selector=spec.nodeName={self._host}")

    def _kubectl(self, *arguments: str) -> str:
        command = Command((*KUBECTL, "--request-timeout=30s", *arguments), timeout=90)
        with self.connect(self.plan.others.inventory.primary) as primary:
            return primary.run_checked(command).text
