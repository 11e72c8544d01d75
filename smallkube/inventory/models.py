"""The models of inventory.yaml, field by field: types, ranges, defaults."""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from smallkube.core.errors import UsageError
from smallkube.inventory import releases
from smallkube.inventory.addressing import Addressing, is_address
from smallkube.inventory.admins import Admins
from smallkube.inventory.marks import Labels, Taints


def _network(value: str) -> str:
    """As it is in a rule: in no other words than the library's own."""
    if "%" in value:
        raise ValueError(f"{value} has a zone, which no rule can have; give the bare network")
    return str(ipaddress.ip_network(value))


def _address(value: str) -> str:
    address = ipaddress.ip_address(value)
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        raise ValueError(f"{value} is not an address that other machines can reach")
    if "%" in value:
        raise ValueError(f"{value} has a zone; give the bare address")
    return value


def _prefix4(value: str) -> str:
    network = ipaddress.ip_network(f"{value}.0.0/16")
    if not network.is_private:
        raise ValueError(f"{network} is not a private range (RFC 1918)")
    return value


def _host(value: str) -> str:
    address, _, zone = value.partition("%")
    if not is_address(address) and (not re.fullmatch(DNS_NAME, value) or len(value) > 253):
        raise ValueError("neither an address nor a DNS name")
    if address != value and not re.fullmatch(r"[\w.-]{1,15}", zone, re.ASCII):  # a ProxyCommand is a shell's
        raise ValueError("the zone is not the name of a network interface")
    return value


def _domain(value: str) -> str:
    if value.rsplit(".", maxsplit=1)[-1] == "local":
        raise ValueError(".local belongs to multicast DNS (RFC 6762); use another top level, such as .internal")
    return value


def _argv(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not value[0]:
        raise ValueError("a check is a list of words, the first of which is the program")
    return value


CATALOGUE = ("local-path", "metrics-server", "network-policy")
"""The add-ons that are ours to name: manifests in nix/addons/catalogue."""


def _addon(value: str) -> str:
    if not set("/.") & set(value) and value not in CATALOGUE:
        raise ValueError(f"{value} is not in the catalogue ({', '.join(CATALOGUE)}); a path has a slash or a dot")
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError("must be a path inside the workspace")
    return value


LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_NAME = rf"{LABEL}(\.{LABEL})*"


Cidr = Annotated[str, AfterValidator(_network)]
Cidr4 = Annotated[Cidr, AfterValidator(lambda value: str(ipaddress.IPv4Network(value)))]
Cidr6 = Annotated[Cidr, AfterValidator(lambda value: str(ipaddress.IPv6Network(value)))]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=0, le=10_000)]
DnsName = Annotated[str, StringConstraints(pattern=rf"^{DNS_NAME}$", max_length=253)]
SecurityLevel = Literal["privileged", "baseline", "restricted"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
Issuer = Annotated[str, StringConstraints(pattern=rf"^https://{DNS_NAME}:[1-9][0-9]{{0,4}}$", max_length=267)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")]


class Model(BaseModel):
    """Strict (no guessing of types), frozen, and closed to unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


class Api(Model):
    """Where clients find the API server, and how they know it is the right one."""

    external_host: DnsName = "test-kube.example.com"
    port: Port = 6443
    tls: Literal["pinned", "insecure"] = "pinned"
    allow_from: tuple[Cidr, ...] = ()
    previous_issuers: tuple[Issuer, ...] = ()

    @property
    def issuer(self) -> str:
        """What new tokens of service accounts name as their issuer (kube.api.externalUrl in nix/modules/api.nix)."""
        return f"https://{self.external_host}:{self.port}"


class Network(Model):
    """The cluster's networks and the tunnel."""

    prefix6: Annotated[str, StringConstraints(pattern=r"^f[cd][0-9a-f]{2}$")] = "fd88"
    prefix4: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$"), AfterValidator(_prefix4)] = "10.88"
    services4: Cidr4 | None = None
    services6: Cidr6 | None = None
    prefer: Literal["ipv4", "ipv6"] = "ipv4"
    open_to_pods: tuple[Port, ...] = ()
    node_ports: Annotated[tuple[Literal["tunnel", "lan"], ...], Field(min_length=1)] = ("tunnel",)
    external_ips: bool = False
    private: tuple[Cidr, ...] = ()
    mtu: Annotated[int, Field(ge=1280, le=65455)] = 1420
    wireguard_port: Port = 51820
    persistent_keepalive: Annotated[int, Field(ge=1, le=65535)] | None = None


class PodSecurity(Model):
    """Which Pod Security Standard pods must meet where their namespace has no label; ``warn`` defaults to the same."""

    enforce: SecurityLevel = "baseline"
    warn: SecurityLevel | None = None
    exempt_namespaces: tuple[Annotated[str, StringConstraints(pattern=rf"^{LABEL}$")], ...] = ("kube-system",)


class Secrets(Model):
    """How secrets are laid out; without ``admins``, the identity in keys/master_key alone reads all."""

    admins: Admins = {}

    encrypted_resources: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9*]([a-z0-9.*-]*[a-z0-9*])?$")], ...],
        Field(min_length=1),
    ] = ("secrets",)


class Keep(Model):
    """How many backups of each kind are kept."""

    last: Annotated[int, Field(ge=1, le=10_000)] = 7
    daily: Count = 14
    weekly: Count = 8
    monthly: Count = 12


class Backup(Model):
    """Where etcd's snapshots go, and what is notified."""

    dir: Annotated[str, Field(min_length=1)] = "backups"
    keep: Keep = Keep()
    ping_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    metrics_file: Annotated[str, Field(min_length=1)] | None = None
    copy_to: tuple[Annotated[str, StringConstraints(pattern=r"^sftp://\S+$")], ...] = ()


class Smoke(Model):
    """What the pods of the smoke test run: the image of a busybox that every node can get."""

    image: Annotated[str, StringConstraints(pattern=r"^\S+$")] = "docker.io/library/busybox:1.37"
    pull_policy: PullPolicy = "IfNotPresent"


class ClusterSettings(Model):
    """Everything that holds for all nodes; only the name has no default."""

    model_config = ConfigDict(title="Cluster")

    name: Word
    domain: Annotated[DnsName, AfterValidator(_domain)] = "k8s.internal"
    kubernetes: releases.Minor = "1.34"
    nixos: releases.Release = "25.11"
    kubernetes_nixpkgs: releases.Nixpkgs | None = None
    api: Api = Api()
    kubelet_auth: Literal["webhook", "firewall"] = "webhook"
    network: Network = Network()
    pod_security: PodSecurity = PodSecurity()
    secrets: Secrets = Secrets()
    addons: tuple[Annotated[str, AfterValidator(_addon)], ...] = ()
    monitoring: bool = False
    backup: Backup = Backup()
    smoke: Smoke = Smoke()

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
    """How the operator's machine reaches a node; the host defaults to the node's peer_ip."""

    host: Annotated[str, AfterValidator(_host)] = ""
    port: Port = 22
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    become: Literal["none", "sudo"] = "none"


class NodeEntry(Model):
    """One node as the file has it; ``taints`` None: as its kubelet registers, with the standard one on the primary."""

    peer_ip: Annotated[str, AfterValidator(_address)]
    ssh: Ssh = Ssh()
    tags: tuple[Word, ...] = ()
    labels: Labels = ()
    taints: Taints | None = None
    checks: tuple[Annotated[tuple[str, ...], AfterValidator(_argv)], ...] = ()


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
