"""The models of inventory.yaml: each key with its type, default, description and example.

The JSON Schema is made from these, and docs/inventory.md from that by `make docs`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict

from smallkube.core.errors import UsageError
from smallkube.inventory import fields, releases
from smallkube.inventory.addressing import Addressing
from smallkube.inventory.fields import CATALOGUE
from smallkube.inventory.marks import Labels, Taints
from smallkube.inventory.sections import Api, Backup, Model, Network, PodSecurity, Secrets, Smoke, key


class ClusterSettings(Model):
    """Everything that holds for all nodes; only the name has no default."""

    model_config = ConfigDict(title="Cluster")

    name: Annotated[fields.Word, key("Name of the cluster, in kubeconfigs, backups and messages.", "home")]
    domain: Annotated[
        fields.Domain,
        key(
            "Domain of nodes and Services; of 40 characters at most in a cluster of up to nine nodes. Not `.local`, "
            "which is reserved for multicast DNS.",
            "k8s.example.com",
        ),
    ] = "k8s.internal"
    kubernetes: Annotated[
        releases.Minor,
        key(
            "Minor version of Kubernetes on the nodes, in quotes (YAML reads 1.30 as 1.3). Name it: the default is "
            "that of inventories that never did.",
            "1.36",
        ),
    ] = "1.34"
    nixos: Annotated[
        releases.Release, key("Release of NixOS on the nodes, in quotes. Name it, as `kubernetes`.", "26.05")
    ] = "25.11"
    kubernetes_nixpkgs: Annotated[
        releases.Nixpkgs | None,
        key(
            "Branch or revision of NixOS/nixpkgs that has this minor. `null`: that of the release, else the known one.",
            "nixos-unstable",
        ),
    ] = None
    api: Annotated[Api, key("How clients reach the API server.", {"external_host": "kube.example.com"})] = Api()
    kubelet_auth: Annotated[
        Literal["webhook", "firewall"],
        key(
            "Who may use the API of the kubelets. `webhook`: who the API server says. `firewall`: any local user of a "
            "node can run commands in every pod of it.",
            "webhook",
        ),
    ] = "webhook"
    network: Annotated[Network, key("Addresses, NodePorts and the tunnel.", {"mtu": 1340})] = Network()
    pod_security: Annotated[
        PodSecurity, key("Which pods are refused.", {"exempt_namespaces": ["kube-system", "storage"]})
    ] = PodSecurity()
    secrets: Annotated[
        Secrets, key("Administrators, and encryption in etcd.", {"encrypted_resources": ["secrets", "configmaps"]})
    ] = Secrets()
    addons: Annotated[
        tuple[fields.Addon, ...],
        key(
            f"What the primary applies besides what the cluster needs; names of the catalogue ({', '.join(CATALOGUE)}) "
            "and manifests of your own, as paths in the workspace.",
            ["metrics-server", "local-path"],
        ),
    ] = ()
    monitoring: Annotated[
        bool, key("Whether the primary can read the metrics of all components (see Monitoring in operating.md).", True)
    ] = False
    backup: Annotated[Backup, key("Backups of etcd.", {"dir": "/srv/backups"})] = Backup()
    smoke: Annotated[Smoke, key("The smoke test.", {"pull_policy": "Never"})] = Smoke()

    @property
    def kubernetes_input(self) -> str | None:
        """Branch or revision of the flake's second nixpkgs, None where the release has this Kubernetes."""
        return releases.pin(self.nixos, self.kubernetes, self.kubernetes_nixpkgs)

    @property
    def addon_files(self) -> tuple[str, ...]:
        """Those of ``addons`` that are paths in the workspace."""
        return tuple(addon for addon in self.addons if addon not in CATALOGUE)

    @property
    def addressing(self) -> Addressing:
        own = self.network
        services = (own.services4 or "", own.services6 or "")
        return Addressing(own.prefix6, own.prefix4, self.domain, own.prefer, *services)


class Ssh(Model):
    """How the operator's machine reaches a node."""

    host: Annotated[
        fields.Host,
        key("Address, DNS name, or `Host` of ~/.ssh/config. Without it: the `peer_ip`.", "node2.example.com"),
    ] = ""
    port: Annotated[fields.Port, key("Port of the SSH server.", 2222)] = 22
    user: Annotated[fields.Login, key("User to log in as.", "admin")] = "root"
    become: Annotated[
        Literal["none", "sudo"], key("How that user becomes root; `sudo` must ask for no password.", "sudo")
    ] = "none"


class NodeEntry(Model):
    """One node as the file has it; ``taints`` None: as its kubelet registers, with the standard one on the primary."""

    peer_ip: Annotated[
        fields.Address,
        key("Address where the other nodes reach it, IPv4 or IPv6, outside of the tunnel.", "192.168.0.2"),
    ]
    ssh: Annotated[Ssh, key("How the operator's machine reaches it.", {"user": "admin", "become": "sudo"})] = Ssh()
    tags: Annotated[tuple[fields.Word, ...], key("Words for `--tag`, which selects nodes.", ["rack1"])] = ()
    labels: Annotated[Labels, key("Labels of the Node object, as KEY=VALUE.", ["example.com/disk=ssd"])] = ()
    taints: Annotated[
        Taints | None,
        key(
            "Taints of the Node object, as KEY=VALUE:EFFECT or KEY:EFFECT. `null`: the standard taint on the primary, "
            "none elsewhere. `[]`: none, so that pods run on the primary, too.",
            ["example.com/gpu=yes:NoSchedule"],
        ),
    ] = None
    size: Annotated[
        Literal["small", "standard"],
        key(
            "`small`: the services of the node save memory and processor time, at the expense of bursts; for machines "
            "of up to two cores or 2 GB.",
            "small",
        ),
    ] = "standard"
    checks: Annotated[
        tuple[fields.Argv, ...],
        key(
            "Health checks of your own, which a deploy runs on the node as root: each a list of words, the program "
            "first. It rolls back when one fails.",
            [["systemctl", "is-active", "nginx"]],
        ),
    ] = ()


class Node(NodeEntry):
    """One machine: ``index`` is the N of its name, index 1 is the primary."""

    name: str
    index: int

    @property
    def role(self) -> Literal["primary", "worker"]:
        return "primary" if self.index == 1 else "worker"


class Inventory(Model):
    """The whole file; ``nodes`` are in the order of their indices."""

    cluster: ClusterSettings
    nodes: tuple[Node, ...]

    @property
    def addressing(self) -> Addressing:
        return self.cluster.addressing

    @property
    def primary(self) -> Node:
        return self.nodes[0]

    @property
    def workers(self) -> tuple[Node, ...]:
        return self.nodes[1:]

    def node(self, name: str) -> Node:
        """The node of that name. Raises UsageError that lists the known ones."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise UsageError(f"no node {name!r} in the inventory", hint=f"the nodes are {known}")

    def select(
        self, names: Sequence[str] = (), roles: Sequence[str] = (), tags: Sequence[str] = ()
    ) -> tuple[Node, ...]:
        """The nodes that match every kind of filter given; all of them when none is given.

        Raises UsageError on an unknown name, role or tag, and when no node matches.
        """
        chosen = {self.node(name).name for name in names}
        for role in roles:
            if role not in ("primary", "worker"):
                raise UsageError(f"no role {role!r}", hint="the roles are primary and worker")
        known_tags = sorted({tag for node in self.nodes for tag in node.tags})
        for tag in tags:
            if tag not in known_tags:
                raise UsageError(
                    f"no node has the tag {tag!r}", hint=f"the tags are {', '.join(known_tags) or '(none)'}"
                )
        selected = tuple(
            node
            for node in self.nodes
            if (not names or node.name in chosen)
            and (not roles or node.role in roles)
            and (not tags or set(tags) & set(node.tags))
        )
        if not selected:
            raise UsageError("no node matches all of --node, --role and --tag")
        return selected
