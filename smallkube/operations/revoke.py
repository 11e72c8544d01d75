"""A compromised node is put out of the cluster: forgotten by every other machine, its credentials refused, and seen so.

Where a revocation stands follows from the inventory and keys/ alone: what the node could read stays in keys/ until the
other machines are proven to have forgotten it, and its files are removed last. Each step may be done again.
The node itself is never asked for anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace, write_file
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.inventory import edit, positions
from smallkube.inventory import load as inventories
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import NODE_NAME
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import token_clients
from smallkube.kube.members import KUBECTL, api_down
from smallkube.operations import referenced_secrets
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Connect
from smallkube.secrets import age, change, generate, journal, kinds, policy, recipients_file, rekey
from smallkube.secrets.header import parse_header
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.ssh_keys import read_host_key
from smallkube.secrets.store import changing_keys, read_keys

WG_SHOW = ("wg", "show", "wgkube", "peers")
_KUBECTL_SECONDS = 90


@dataclass(frozen=True)
class Plan:
    """``node`` as it is, or was, in the inventory; ``inside``: it still is.

    ``own``: its secrets whose files are in keys/. ``shared``: others that it can read: none, unless keys/ has drifted
    from the policy.
    """

    node: Node
    host: str
    inside: bool
    own: tuple[Secret, ...]
    shared: tuple[Secret, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        name = self.node.name
        first = (f"take {name} out of inventory.yaml",) if self.inside else ()
        again = (f"re-encrypt {', '.join(row.name for row in self.shared)} without it",) if self.shared else ()
        return (
            *first,
            "take it out of peers.json and secrets.nix",
            *again,
            "deploy all other machines together: they forget its WireGuard key and its token",
            f"remove the pods on {name} and its Node object from the cluster",
            "see its token refused, and its WireGuard key gone from every other machine",
            f"remove its files from keys/: {', '.join((*(row.file for row in self.own), f'hosts/{name}.pub'))}",
        )


@dataclass(frozen=True)
class Outcome:
    """``exposed``: Secrets (NAMESPACE/NAME) that pods on the node used; None when that could not be asked."""

    node: str
    removed: tuple[str, ...]
    shared: tuple[str, ...]
    exposed: tuple[str, ...] | None


def make(cluster: Cluster, name: str) -> Plan:
    """What is to be done. Raises UsageError when ``name`` is the primary, or nothing of it is left anywhere."""
    known = {node.name: node for node in cluster.inventory.nodes}
    if name == cluster.inventory.primary.name:
        raise UsageError(f"{name} is the primary and can't be removed")
    node = known.get(name) or _former(cluster.inventory, name)
    keys = read_keys(cluster.workspace)
    own = tuple(row for row in _secrets(cluster.inventory, node) if row.file in keys.files)
    host_key = cluster.workspace.hosts_keys_dir / f"{name}.pub"
    if name not in known and not own and not host_key.exists():
        raise UsageError(f"no node {name!r} in the inventory, and nothing of it in keys/")
    shared: tuple[Secret, ...] = ()
    if host_key.exists():
        tag = read_host_key(host_key, cluster.workspace.relative(host_key)).tag
        rows = (
            row for row in policy.expected(cluster.inventory, keys.files) if row.node != name and row.file in keys.files
        )
        shared = tuple(row for row in rows if tag in parse_header(keys.files[row.file], row.file).ssh_tags)
    return Plan(node, cluster.inventory.addressing.node_host(node.index), name in known, own, shared)


def _former(inventory: Inventory, name: str) -> Node:
    """One that is in the inventory no more; where it was reached no longer matters."""
    match = NODE_NAME.fullmatch(name)
    if not match or int(match[1]) > inventories.MAX_INDEX:
        return inventory.node(name)
    return inventory.primary.model_copy(update={"name": name, "index": int(match[1])})


def _secrets(inventory: Inventory, node: Node) -> list[Secret]:
    """The node's own, also those of a rotation, as if it were in the inventory."""
    whole = inventory.model_copy(update={"nodes": (*(one for one in inventory.nodes if one.name != node.name), node)})
    return [each for row in policy.secrets_of(whole) if row.node == node.name for each in (row, *row.versions)]


@dataclass(frozen=True)
class Revocation:
    """What it takes to carry out a plan."""

    workspace: Workspace
    master: age.Master
    connect: Connect
    watcher: Watcher

    def execute(self, plan: Plan, inventory: Inventory, step: Callable[[str], object]) -> Outcome:
        """Carry out ``plan``. Raises SmallkubeError at a step that failed: the same again goes on from there."""
        tokens, public = self._credentials(plan)
        step("ask which Secrets its pods use")
        exposed = self._exposed(plan, inventory)
        if plan.inside:
            step("take it out of the inventory")
            inventory = self._forget(plan.node.name)
        cluster = Cluster(self.workspace, inventory)
        with changing_keys(self.workspace):
            generate.act(cluster, generate.plan(cluster))
            if plan.shared:
                rekey.act(cluster, rekey.plan(cluster))
        step("deploy all other machines together")
        roll_out(cluster, inventory.nodes, self.watcher)
        step("remove its pods and its Node object")
        self._expel(plan, inventory)
        step("see it refused")
        self._see_refused(tokens, inventory)
        self._see_forgotten(public, inventory)
        step("remove its files from keys/")
        removed = self._clean(plan, inventory)
        return Outcome(plan.node.name, removed, tuple(row.name for row in plan.shared), exposed)

    def _credentials(self, plan: Plan) -> tuple[dict[str, bytes], set[str]]:
        """Its tokens by name, and its public WireGuard keys: to try them when they must work no more."""
        keys = read_keys(self.workspace)
        tokens, public = {}, set()
        for row in plan.own:
            if row.kind in (Kind.TOKEN, Kind.WIREGUARD):
                tokens[row.name] = change.opened(keys, self.master, row)
            if row.kind is Kind.WIREGUARD:
                public.add(kinds.wireguard_public(tokens[row.name], row.file))
        return tokens, public

    def _exposed(self, plan: Plan, inventory: Inventory) -> tuple[str, ...] | None:
        """Raises SmallkubeError when the primary can't be reached: nothing has been changed by then."""
        if api_down(inventory, self.connect):
            return None
        with self.connect(inventory.primary) as primary:
            reply = primary.run_checked(_kubectl("get", "pods", "--output=json", *_on(plan.host)))
        return referenced_secrets.secrets_of_pods(reply.text)

    def _forget(self, name: str) -> Inventory:
        file = self.workspace.inventory_file
        text = edit.remove_node(positions.read_text(file), name)
        without = inventories.parse(text, file)
        write_file(file, text, mode=file.stat().st_mode & 0o777)
        return without

    def _expel(self, plan: Plan, inventory: Inventory) -> None:
        """Its token is refused by now, so that its kubelet can't make the Node object anew.

        Its pods are not waited for: nobody is there who would say that they have ended.
        """
        with self.connect(inventory.primary) as primary:
            primary.run_checked(_kubectl("delete", "node", plan.host, "--ignore-not-found", "--wait=false"))
            now = ("--grace-period=0", "--force", "--wait=false")
            primary.run_checked(_kubectl("delete", "pods", *now, *_on(plan.host)))
            left = primary.run_checked(
                _kubectl("get", "node", plan.host, "--ignore-not-found", "--output=name")
            ).text.strip()
        if left:
            raise SmallkubeError(f"{left} is still there", hint="run the same command again")

    def _see_refused(self, tokens: dict[str, bytes], inventory: Inventory) -> None:
        if not tokens:
            return
        with self.connect(inventory.primary) as primary:
            found = token_clients.attempt(primary, tokens)
        if wrong := [f"{name} is {answer}" for name, answer in found.items() if answer != "refused"]:
            raise SmallkubeError(f"the API server: {', '.join(wrong)}, not refused", hint="run the same command again")

    def _see_forgotten(self, public: set[str], inventory: Inventory) -> None:
        def peers(node: Node) -> set[str]:
            with self.connect(node) as machine:
                return set(machine.run_checked(Command(WG_SHOW)).text.split())

        outcomes = fleet.run([inventory.nodes], peers)
        wrong = [f"{one.node.name} ({one.error.message})" for one in outcomes if one.error]
        wrong += [f"{one.node.name} still has it as a peer" for one in outcomes if one.value and one.value & public]
        if wrong:
            raise SmallkubeError(f"not forgotten everywhere: {', '.join(wrong)}", hint="run the same command again")

    def _clean(self, plan: Plan, inventory: Inventory) -> tuple[str, ...]:
        """The secrets last, and all at once: as long as they are there, so is all that it takes to go on."""
        host_key = self.workspace.hosts_keys_dir / f"{plan.node.name}.pub"
        with changing_keys(self.workspace):
            keys = read_keys(self.workspace)
            certificates = (row.certificate.file for row in _secrets(inventory, plan.node) if row.certificate)
            gone = (*(row.file for row in plan.own), *(name for name in certificates if name in keys.certificates))
            kept = {name: row for name, row in keys.records.items() if name in keys.files and name not in gone}
            files = {self.workspace.recipients_file.name: recipients_file.render(kept).encode()}
            there = host_key.exists()
            host_key.unlink(missing_ok=True)
            journal.commit(self.workspace, journal.Change((plan.node.name,), files, gone))
        return (*gone, *((f"hosts/{host_key.name}",) if there else ()))


def _on(host: str) -> tuple[str, ...]:
    return ("--all-namespaces", f"--field-selector=spec.nodeName={host}")


def _kubectl(*arguments: str) -> Command:
    return Command((*KUBECTL, "--request-timeout=30s", *arguments), timeout=_KUBECTL_SECONDS)
