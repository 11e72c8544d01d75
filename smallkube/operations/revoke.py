"""Revoke a compromised node: every other node forgets it, and its credentials are verified to be refused.

The API server comes first, and needs no other machine: one that is off keeps the node's WireGuard key until it is
deployed to, and is named. What the node could read stays in keys/ until the others are verified to have forgotten it,
and its files are removed last: so inventory and keys/ say where a revocation stands. The node itself is never asked for
anything.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.deploy.run import UNDRAINED
from smallkube.inventory import edit, positions
from smallkube.inventory import load as inventories
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Inventory, Node
from smallkube.kube import members
from smallkube.kube.identities import SECONDS
from smallkube.kube.members import api_down, kubectl
from smallkube.operations import identities, tokens
from smallkube.operations.engine import Operation, Runbook, Step
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import fleet
from smallkube.remote.host import Command, Host
from smallkube.secrets import kinds, peers, policy
from smallkube.secrets.header import parse_header
from smallkube.secrets.host_keys import read_host_key
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Change, Keys, apply, read_keys

_AGAIN = "run the same command again"
_REFERENCES = ("imagePullSecrets", "secret", "secretRef", "secretKeyRef", "nodePublishSecretRef")
"""Fields of a PodSpec (core/v1) that name a Secret of the pod's namespace, wherever they are.

The Node authorizer lets a node read exactly those of the pods that are bound to it
(https://kubernetes.io/docs/reference/access-authn-authz/node/).
"""


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
    node = inventory.node(name) if inside else removed_node(inventory, name)
    rest = tuple(each for each in inventory.nodes if each.name != name)
    with_it = inventory.model_copy(update={"nodes": (*rest, node)})
    own, certificates = _files_of(with_it, name, keys)
    host_key = read_host_key(cluster.workspace, name)
    if not inside and not own and not host_key:
        raise UsageError(f"no node {name!r} in the inventory, and nothing of it in keys/")
    shared: tuple[Secret, ...] = ()
    if host_key:
        foreign = [row for row in policy.expected(inventory, keys.files) if row.node != name and row.file in keys.files]
        shared = tuple(row for row in foreign if host_key.tag in parse_header(keys.files[row.file], row.file).ssh_tags)
    others = Cluster(cluster.workspace, inventory.model_copy(update={"nodes": rest}))
    return Plan(node, inside, others, own, certificates, shared)


def _files_of(inventory: Inventory, name: str, keys: Keys) -> tuple[tuple[Secret, ...], tuple[str, ...]]:
    """The secrets of a node in ``inventory``, and their certificates' files, as far as they are in ``keys``."""
    table = (*policy.secrets_of(inventory), *policy.node_tokens(inventory))
    rows = [each for row in table if row.node == name for each in (row, *row.versions)]
    issued = tuple(file for file in policy.certificate_files(rows) if file in keys.certificates)
    return tuple(row for row in rows if row.file in keys.files), issued


def forget(cluster: Cluster, added: Inventory, name: str) -> tuple[str, ...]:
    """Remove from keys/ what an earlier node ``name`` has left there, and its entry in peers.json; the files.

    ``added``: the inventory that has it again, which ``cluster`` has not yet. Call it under the lock on keys/.
    """
    keys, index = read_keys(cluster.workspace), added.node(name).index
    own, certificates = _files_of(added, name, keys)
    known = index in peers.public_keys(peers.read(cluster.workspace))
    public = {**dict.fromkeys(certificates), **(peers.published(cluster, {}).files if known else {})}
    if own or public:
        apply(cluster, Change(removed=own, public=public), keys=keys)
    return (*(row.file for row in own), *certificates)


def removed_node(inventory: Inventory, name: str) -> Node:
    """One that is in the inventory no more; where it was reached no longer matters."""
    match = inventories.NODE_NAME.fullmatch(name)
    if not match or int(match[1]) > inventories.MAX_INDEX:
        return inventory.node(name)
    return inventory.primary.model_copy(update={"name": name, "index": int(match[1])})


@dataclass
class Revocation(Runbook):
    """Carries out ``plan``; ``cluster`` is ``plan.others``.

    ``exposed``: Secrets (NAMESPACE/NAME) that pods on the node used, None when that could not be asked; ``removed``:
    files removed from keys/.
    """

    plan: Plan
    exposed: tuple[str, ...] | None = None
    removed: tuple[str, ...] = ()

    def operation(self) -> Operation:
        """The steps; each may be repeated, and all of them are."""
        plan, name = self.plan, self.plan.node.name
        forget = Step(f"remove {name} from inventory.yaml", self._remove_from_inventory)
        again = f"; re-encrypt {', '.join(row.name for row in plan.shared)} without it" if plan.shared else ""
        files = ", ".join((*(row.file for row in plan.own), f"hosts/{name}.pub"))
        deploy_primary = partial(self.deploy, [self.inventory.primary], cluster=self.cluster)
        steps = (
            Step(f"list the Secrets that pods on {name} use", self._list_exposed),
            Step("accept its certificates no more", self._refuse_certificates),
            Step("close its tunnel on every node that can be reached", self._close_tunnel),
            Step("end its connections to the API server", self._end_connections),
            *((forget,) if plan.inside else ()),
            Step(f"remove {name} from peers.json and secrets.nix{again}", self.update_keys),
            Step("deploy the primary, without its certificates and WireGuard key", deploy_primary),
            Step(f"delete the Node object of {name} and its pods", self._delete_node),
            Step("verify that its certificates are refused", self._verify_refused),
            Step("deploy all other workers that can be reached, without its WireGuard key", self._deploy_workers),
            Step("verify that no other node has its WireGuard key", self._verify_forgotten),
            Step(f"delete its files in keys/: {files}", self._delete_files),
        )
        return Operation(steps, lambda _: not plan.inside)

    @property
    def _host(self) -> str:
        return self.inventory.addressing.node_host(self.plan.node.index)

    def _own(self, kind: Kind) -> list[Secret]:
        """Its secrets of this kind: to try them when they must work no more."""
        return [row for row in self.plan.own if row.kind is kind]

    def _list_exposed(self) -> None:
        """Also finds out, before anything is changed, whether the primary answers and the credentials can be opened."""
        for row in self.plan.own:
            self.open(row)
        if not api_down(self.inventory, self.connect):
            self.exposed = secrets_of_pods(self._kubectl("get", "pods", "--output=json", *members.pods_on(self._host)))

    def _refuse_certificates(self) -> None:
        """At once, and without a restart; where nodes have only tokens yet, the deploy of the primary does it."""
        if any(
            row.certificate.file not in self.keys.certificates
            for row in policy.identities(self.inventory)
            if row.certificate
        ):
            return
        with self.connect(self.inventory.primary) as primary:
            sent = identities.send(self.cluster, primary)
        if sent and not api_down(self.inventory, self.connect):
            wait_until(self._accepted, SECONDS, "still accepted by the API server", hint=_AGAIN)

    def _accepted(self) -> list[str]:
        """Those of its certificates that the API server does not refuse, in words."""
        return identities.accepted(
            self, identities.opened(self, [row for row in self._own(Kind.SERVING_KEY) if row.user], self.keys)
        )

    def _verify_refused(self) -> None:
        tokens.verify(self, dict.fromkeys(self._own(Kind.TOKEN), "refused"))
        if wrong := self._accepted():
            raise SmallkubeError(f"the API server: {', '.join(wrong)}", hint=_AGAIN)

    def _end_connections(self) -> None:
        """Watches that are open would go on, at the node's own address too."""
        plan, index = self.inventory.addressing, self.plan.node.index
        own = [self.plan.node.peer_ip] if self.plan.inside else []  # otherwise not known
        cidrs = [plan.cidr6(index), plan.cidr4(index), *own]
        command = SCRIPTS.sent(
            "end-connections", str(self.inventory.cluster.api.port), *map(_for_ss, cidrs), title="end connections"
        )
        with self.connect(self.inventory.primary) as primary:
            primary.run_checked(replace(command, timeout=600))

    def _close_tunnel(self) -> None:
        """Where a node can't be asked, its deploy does it, and what is left is verified in the end."""
        keys = {kinds.wireguard_public(self.open(row), row.file) for row in self._own(Kind.WIREGUARD)}

        def close(host: Host) -> None:
            for key in keys:
                host.run_checked(Command(("wg", "set", "wgkube", "peer", key, "remove"), title="remove a peer"))

        fleet.ask(self.inventory.nodes, self.connect, close)

    def _remove_from_inventory(self) -> None:
        file = self.cluster.workspace.inventory_file
        text = edit.remove_node(positions.read_text(file), self.plan.node.name)
        inventories.parse(text, file)
        edit.write(file, text)

    def _deploy_workers(self) -> None:
        off = fleet.unreachable(self.inventory.workers, self.connect)
        if workers := [node for node in self.inventory.workers if node.name not in off]:
            # An upgrade under way is no reason to let them accept the node: the primary has the new version by now.
            self.deploy(workers, cluster=self.cluster, options=replace(UNDRAINED, upgrade=True))

    def _delete_node(self) -> None:
        """Its token is refused by now, so that its kubelet can't create the Node object again."""
        with self.connect(self.inventory.primary) as primary:
            members.delete(primary, self._host)

    def _verify_forgotten(self) -> None:
        public = {kinds.wireguard_public(self.open(row), row.file) for row in self._own(Kind.WIREGUARD)}

        def has_it(host: Host) -> Iterator[str]:
            if not public.isdisjoint(host.run_checked(Command(("wg", "show", "wgkube", "peers"))).text.split()):
                yield f"{host.node.name} still has it as a peer"

        if wrong := self.complaints(has_it):
            name, left = self.plan.node.name, ", ".join(wrong)
            message = f"the API server refuses {name}, but its WireGuard key may still be accepted: {left}"
            raise SmallkubeError(message, hint=f"{_AGAIN} once these can be reached")

    def _delete_files(self) -> None:
        """The secrets last, and all at once: as long as they are there, the same command can resume."""
        host_key, public = f"hosts/{self.plan.node.name}.pub", list(self.plan.certificates)
        if (self.cluster.workspace.keys_dir / host_key).exists():
            public.append(host_key)
        self.change(lambda: Change(removed=self.plan.own, public=dict.fromkeys(public)))
        self.removed = (*(row.file for row in self.plan.own), *public)

    def _kubectl(self, *arguments: str) -> str:
        with self.connect(self.inventory.primary) as primary:
            return primary.run_checked(kubectl(*arguments)).text


def _for_ss(cidr: str) -> str:
    """A range, or an address, as ss(8) takes it."""
    return f"[{cidr}]" if ":" in cidr else cidr


def secrets_of_pods(text: str) -> tuple[str, ...]:
    """``NAMESPACE/NAME`` of all Secrets that the pods of a PodList in JSON (core/v1) refer to, sorted."""
    try:
        pods = json.loads(text)["items"]
        found = {f"{pod['metadata']['namespace']}/{name}" for pod in pods for name in _names("spec", pod["spec"])}
    except MALFORMED as error:
        raise SmallkubeError("unexpected output from kubectl: not a PodList") from error
    return tuple(sorted(found))


def _names(field: str, value: Any) -> Iterator[str]:
    """The Secrets that ``value`` of the field so called refers to."""
    if isinstance(value, list):
        for each in value:
            yield from _names(field, each)
    elif isinstance(value, dict):
        if field in _REFERENCES and (name := value.get("secretName") or value.get("name")):
            yield name
        for key, each in value.items():
            yield from _names(key, each)
