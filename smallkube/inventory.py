"""inventory.yaml → ``Inventory``: validated, frozen. The only reader of that file.

The models carry the schema (field by field); rules that need more than one field are in ``inventory_rules``.
"""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from smallkube import inventory_rules, inventory_yaml
from smallkube.addressing import Addressing
from smallkube.errors import ManyErrors, UsageError
from smallkube.inventory_yaml import Document, KeyPath

NODE_NAME = re.compile(r"node([1-9][0-9]{0,2})")
MAX_INDEX = 254


def _network(value: str) -> str:
    ipaddress.ip_network(value)
    return value


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
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(DNS_NAME, value) or len(value) > 253:
            raise ValueError("neither an address nor a DNS name") from None
    return value


def _domain(value: str) -> str:
    if value.rsplit(".", maxsplit=1)[-1] == "local":
        raise ValueError(".local belongs to multicast DNS (RFC 6762); use another top level, such as .internal")
    return value


def _argv(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not value[0]:
        raise ValueError("a check is a list of words, the first of which is the program")
    return value


def _addon(value: str) -> str:
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError("must be a path inside the workspace")
    return value


LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_NAME = rf"{LABEL}(\.{LABEL})*"

Cidr = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=0, le=10_000)]
DnsName = Annotated[str, StringConstraints(pattern=rf"^{DNS_NAME}$", max_length=253)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")]


class Model(BaseModel):
    """Strict (no guessing of types), frozen, and closed to unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


M = TypeVar("M", bound=Model)


class Api(Model):
    """Where clients find the API server, and how they know it is the right one."""

    external_host: DnsName = "test-kube.example.com"
    port: Port = 6443
    tls: Literal["pinned", "insecure"] = "pinned"
    allow_from: tuple[Cidr, ...] = ()


class Network(Model):
    """The cluster's networks and the tunnel."""

    prefix6: Annotated[str, StringConstraints(pattern=r"^f[cd][0-9a-f]{2}$")] = "fd88"
    prefix4: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$"), AfterValidator(_prefix4)] = "10.88"
    open_to_pods: tuple[Port, ...] = ()
    private: tuple[Cidr, ...] = ()
    mtu: Annotated[int, Field(ge=1280, le=65455)] = 1420
    wireguard_port: Port = 51820
    persistent_keepalive: Annotated[int, Field(ge=1, le=65535)] | None = None


class Secrets(Model):
    """How secrets are laid out."""

    node_tokens: Literal["separate", "wireguard"] = "separate"
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
    """Where etcd's snapshots go, and who is told."""

    dir: Annotated[str, Field(min_length=1)] = "backups"
    keep: Keep = Keep()
    ping_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    metrics_file: Annotated[str, Field(min_length=1)] | None = None
    copy_to: tuple[Annotated[str, StringConstraints(pattern=r"^sftp://\S+$")], ...] = ()


class Cluster(Model):
    """Everything that holds for all nodes; only the name has no default."""

    name: Word
    domain: Annotated[DnsName, AfterValidator(_domain)] = "k8s.internal"
    kubernetes: Annotated[str, StringConstraints(pattern=r"^1\.[0-9]{2}$")] = "1.34"
    nixos: Annotated[str, StringConstraints(pattern=r"^[0-9]{2}\.(05|11)$")] = "25.11"
    api: Api = Api()
    kubelet_auth: Literal["webhook", "firewall"] = "webhook"
    network: Network = Network()
    secrets: Secrets = Secrets()
    addons: tuple[Annotated[str, AfterValidator(_addon)], ...] = ()
    backup: Backup = Backup()


class Ssh(Model):
    """How the control room reaches a node; the host defaults to the node's peer_ip."""

    host: Annotated[str, AfterValidator(_host)] = ""
    port: Port = 22
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    become: Literal["none", "sudo"] = "none"


class NodeEntry(Model):
    """One node as the file has it."""

    peer_ip: Annotated[str, AfterValidator(_address)]
    ssh: Ssh = Ssh()
    tags: tuple[Word, ...] = ()
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

    cluster: Cluster
    nodes: tuple[Node, ...]

    @property
    def addressing(self) -> Addressing:
        return Addressing(self.cluster.network.prefix6, self.cluster.network.prefix4, self.cluster.domain)

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


def load(path: Path) -> Inventory:
    """Read and validate ``path``.

    Raises ManyErrors with every problem found, each a UsageError whose ``where`` is file, line and key.
    """
    return parse(inventory_yaml.read_text(path), path)


def parse(text: str, path: Path) -> Inventory:
    """Validate ``text``, which stands (or is to stand) in ``path``; raises as ``load`` does."""
    document = inventory_yaml.parse(text, path)
    problems: list[UsageError] = []
    data = document.data
    if not isinstance(data, dict):
        raise UsageError("must be a mapping with the keys cluster and nodes", where=str(path))
    problems += [
        document.problem((key,), "unknown key; the keys are cluster and nodes")
        for key in data
        if key not in ("cluster", "nodes")
    ]
    problems += [document.problem((), f"the key {key} is missing") for key in ("cluster", "nodes") if key not in data]
    cluster = _part(document, ("cluster",), Cluster, problems) if "cluster" in data else None
    nodes = _nodes(document, problems) if "nodes" in data else ()
    problems += inventory_rules.check(document, path.parent, cluster, nodes)
    if problems or cluster is None:
        raise ManyErrors(sorted(problems, key=document.line_of))
    return Inventory(cluster=cluster, nodes=nodes)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of inventory.yaml (draft 2020-12), for completion in editors."""
    cluster = Cluster.model_json_schema(ref_template="#/$defs/{model}")
    entry = NodeEntry.model_json_schema(ref_template="#/$defs/{model}")
    definitions = cluster.pop("$defs") | entry.pop("$defs") | {"Cluster": cluster, "Node": entry}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smallkube inventory",
        "type": "object",
        "properties": {
            "cluster": {"$ref": "#/$defs/Cluster"},
            "nodes": {
                "type": "object",
                "patternProperties": {rf"^{NODE_NAME.pattern}$": {"$ref": "#/$defs/Node"}},
                "additionalProperties": False,
                "required": ["node1"],
            },
        },
        "required": ["cluster", "nodes"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _nodes(document: Document, problems: list[UsageError]) -> tuple[Node, ...]:
    entries = document.data["nodes"]
    if not isinstance(entries, dict) or not entries:
        problems.append(document.problem(("nodes",), "must be a mapping with at least node1"))
        return ()
    nodes = []
    for name in entries:
        match = NODE_NAME.fullmatch(name) if isinstance(name, str) else None
        if not match or int(match[1]) > MAX_INDEX:
            problems.append(document.problem(("nodes", name), f"a node is named nodeN with N from 1 to {MAX_INDEX}"))
            continue
        entry = _part(document, ("nodes", name), NodeEntry, problems)
        if entry:
            fields = {field: getattr(entry, field) for field in NodeEntry.model_fields}
            if not entry.ssh.host:
                fields["ssh"] = entry.ssh.model_copy(update={"host": entry.peer_ip})
            nodes.append(Node(name=name, index=int(match[1]), **fields))
    return tuple(sorted(nodes, key=lambda node: node.index))


def _part(document: Document, at: KeyPath, model: type[M], problems: list[UsageError]) -> M | None:
    value = document.value(at)
    try:
        return model.model_validate(_tuples(value))
    except ValidationError as error:
        problems += [
            document.problem((*at, *detail["loc"]), _message(detail["type"], detail["msg"], detail.get("ctx", {})))
            for detail in error.errors(include_url=False, include_input=False)
        ]
        return None


def _tuples(value: Any) -> Any:
    """YAML's lists as the tuples that the frozen models hold."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _message(kind: str, message: str, context: dict[str, Any]) -> str:
    """Pydantic's words in those of someone who edits YAML."""
    match kind:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "this key is missing"
        case "string_type":
            return 'must be text; put it in quotes ("…")'
        case "tuple_type":
            return "must be a list"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a mapping (key: value)"
        case "string_pattern_mismatch":
            return f"does not have the form {context.get('pattern')}"
        case "value_error":
            return message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
