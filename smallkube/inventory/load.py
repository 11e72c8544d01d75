"""inventory.yaml → ``Inventory``: validated, frozen. The only reader of that file.

Fields are in ``models``, lines in ``positions``; rules over more than one field are here.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from smallkube.core.errors import ErrorGroup, UsageError, listed
from smallkube.inventory import admins, positions, releases
from smallkube.inventory.addressing import is_address
from smallkube.inventory.models import ClusterSettings, Inventory, Node, NodeEntry
from smallkube.inventory.positions import Document, KeyPath
from smallkube.inventory.sections import Model

NODE_NAME = re.compile(r"node([1-9][0-9]{0,2})")
MAX_INDEX = 254
_PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")

M = TypeVar("M", bound=Model)


def load(path: Path) -> Inventory:
    """Read and validate ``path``.

    Raises ErrorGroup with every problem found, each a UsageError whose ``where`` is file, line and key.
    """
    return parse(positions.read_text(path), path)


def parse(text: str, path: Path) -> Inventory:
    """Validate ``text``, the present or future content of ``path``; raises as ``load`` does."""
    document = positions.parse(text, path)
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
    cluster = _part(document, ("cluster",), data["cluster"], ClusterSettings, problems) if "cluster" in data else None
    nodes = _nodes(document, problems) if "nodes" in data else ()
    problems += _breaches(document, cluster, nodes)
    if problems or cluster is None:
        raise ErrorGroup(sorted(problems, key=document.line_of))
    return Inventory(cluster=cluster, nodes=nodes)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of inventory.yaml (draft 2020-12), for completion in editors."""
    cluster = ClusterSettings.model_json_schema(ref_template="#/$defs/{model}")
    entry = NodeEntry.model_json_schema(ref_template="#/$defs/{model}")
    definitions = cluster.pop("$defs") | entry.pop("$defs") | {"Cluster": cluster, "Node": entry}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smallkube inventory",
        "type": "object",
        "properties": {
            "cluster": {
                "$ref": "#/$defs/Cluster",
                "description": "What holds for all nodes.",
                "examples": [{"name": "home", "kubernetes": releases.RELEASES["26.05"], "nixos": "26.05"}],
            },
            "nodes": {
                "type": "object",
                "description": f"The machines: nodeN, with N from 1 to {MAX_INDEX}, is the name. node1 is the primary.",
                "examples": [{"node1": {"peer_ip": "192.168.0.1"}, "node2": {"peer_ip": "192.168.0.2"}}],
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
    if "node1" not in entries:
        problems.append(document.problem(("nodes",), "node1 is missing: it is the primary"))
    nodes = []
    for name in entries:
        match = NODE_NAME.fullmatch(name) if isinstance(name, str) else None
        if not match or int(match[1]) > MAX_INDEX:
            problems.append(document.problem(("nodes", name), f"a node is named nodeN with N from 1 to {MAX_INDEX}"))
            continue
        entry = _part(document, ("nodes", name), entries[name], NodeEntry, problems)
        if entry:
            ssh = entry.ssh if entry.ssh.host else entry.ssh.model_copy(update={"host": entry.peer_ip})
            nodes.append(Node.model_construct(**dict(entry) | {"ssh": ssh}, name=name, index=int(match[1])))
    return tuple(sorted(nodes, key=lambda node: node.index))


_MESSAGES = {
    "extra_forbidden": "unknown key",
    "missing": "this key is missing",
    "string_type": 'must be text; put it in quotes ("…")',
    "int_type": "must be a whole number",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)",
    "dict_type": "must be a mapping (key: value)",
    "mapping_type": "must be a mapping (key: value)",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "does not have the form {pattern}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "too short (at least {min_length})",
    "string_too_long": "too long (at most {max_length})",
    "too_short": "too short (at least {min_length})",
    "value_error": "{error}",
}
"""By the type of pydantic's error (its documented name); the braces are its context."""
_REMOVED = {
    ("cluster", "secrets", "node_tokens"): "no longer a setting, nodes have certificates instead of tokens; remove "
    "this key, then run inv keys.generate, inv nix.render and inv deploy",
}
"""Keys of earlier versions: what to do."""
_CN_LENGTH = 64
"""Characters that the common name of a certificate may have (ub-common-name, RFC 5280, appendix A.1)."""
LONGEST_USER = "system:kube-proxy:"
"""What precedes a node's host name in the longest name that a certificate of its has (secrets/policy.py)."""


def _part(document: Document, at: KeyPath, value: Any, model: type[M], problems: list[UsageError]) -> M | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems += [
            document.problem(path, _REMOVED.get(path) or _message(detail["type"], detail["msg"], detail.get("ctx", {})))
            for detail in error.errors(include_url=False, include_input=False)
            # "[key]": a key that is wrong, by pydantic
            for path in [(*at, *(part for part in detail["loc"] if part != "[key]"))]
        ]
        return None


def _message(kind: str, message: str, context: dict[str, Any]) -> str:
    """An error of pydantic in our words; in its own when it is of a kind that our models don't cause."""
    if kind in _MESSAGES:
        return _MESSAGES[kind].format_map(context)
    return message[:1].lower() + message[1:]


def _breaches(document: Document, cluster: ClusterSettings | None, nodes: Sequence[Node]) -> Iterator[UsageError]:
    """Every breach of a rule over more than one field.

    Parts that were invalid by themselves are None or left out, and not judged again here.
    """
    yield from _same_address(document, nodes)
    if cluster:
        yield from _overlaps(document, cluster, nodes)
        yield from _services(document, cluster, nodes)
        if cluster.api.port == 10250:
            yield document.problem(("cluster", "api", "port"), "10250 is the kubelet's port")
        if 10250 in cluster.network.open_to_pods:
            text = "10250 is the kubelet's port, which stays closed to pods"
            yield document.problem(("cluster", "network", "open_to_pods"), text)
        for name, other in admins.shared(cluster.secrets.admins):
            yield document.problem(("cluster", "secrets", "admins", name), f"is the recipient of {other} already")
        yield from _domain_length(document, cluster, nodes)
        yield from _node_ports(document, cluster, nodes)
        try:
            _ = cluster.kubernetes_input
        except ValueError as error:
            yield document.problem(("cluster", "kubernetes"), str(error))
        yield from _addons(document, cluster)


def _domain_length(document: Document, cluster: ClusterSettings, nodes: Sequence[Node]) -> Iterator[UsageError]:
    if not nodes:
        return
    longest = max((node.name for node in nodes), key=len)
    most = _CN_LENGTH - len(f"{LONGEST_USER}{longest}.")
    if len(cluster.domain) > most:
        text = f"{cluster.domain} is too long: {most} characters at most, so that certificates can name {longest}"
        yield document.problem(("cluster", "domain"), text)


def _same_address(document: Document, nodes: Sequence[Node]) -> Iterator[UsageError]:
    peers: dict[object, str] = {}
    logins: dict[tuple[str, int], str] = {}
    for node in nodes:
        other = peers.setdefault(ipaddress.ip_address(node.peer_ip), node.name)
        if other != node.name:
            yield document.problem(("nodes", node.name, "peer_ip"), f"{node.peer_ip} is {other}'s address already")
        login = logins.setdefault((node.ssh.host, node.ssh.port), node.name)
        if login not in (node.name, other):
            yield document.problem(
                ("nodes", node.name, "ssh"), f"{node.ssh.host} port {node.ssh.port} is {login}'s already"
            )


def _overlaps(document: Document, cluster: ClusterSettings, nodes: Sequence[Node]) -> Iterator[UsageError]:
    for node in nodes:
        for own in cluster.addressing.networks:
            if ipaddress.ip_address(node.peer_ip) in own:
                yield document.problem(
                    ("nodes", node.name, "peer_ip"),
                    f"{node.peer_ip} is in the cluster's own network {own}",
                    "give the machine's address outside the tunnel, or another cluster.network prefix",
                )
    for position, cidr in enumerate(cluster.network.private):
        network = ipaddress.ip_network(cidr)
        for own in cluster.addressing.networks:
            if network.version == own.version and network.overlaps(own) and network.prefixlen > 0:
                yield document.problem(
                    ("cluster", "network", "private", position),
                    f"{cidr} overlaps the cluster's own network {own}",
                )


def _services(document: Document, cluster: ClusterSettings, nodes: Sequence[Node]) -> Iterator[UsageError]:
    """The Services' ranges beside the subnets of the nodes: in index 0 or, IPv4 alone, outside of the prefix.

    The API server itself demands 8 to 2^20 addresses (ServiceIPRange, validateMaxCIDRRange).
    """
    plan, network = cluster.addressing, cluster.network
    own, mine = ipaddress.IPv4Network(f"{network.prefix4}.0.0/16"), ipaddress.IPv4Network(plan.cidr4(0))
    four, at = ipaddress.IPv4Network(network.services4 or mine), ("cluster", "network", "services4")
    if four.overlaps(own) and not four.subnet_of(mine):
        text, hint = f"{four} overlaps the subnets of the nodes", f"give a part of {mine}, or a range outside {own}"
        yield document.problem(at, text, hint)
    if not any(four.subnet_of(ipaddress.IPv4Network(private)) for private in _PRIVATE):
        yield document.problem(at, f"{four} is not in a private range ({listed(_PRIVATE)})")
    if not 12 <= four.prefixlen <= 29:
        yield document.problem(at, f"{four} must be of /12 to /29")
    for node in nodes:
        if is_address(node.ssh.host) and ipaddress.ip_address(node.ssh.host) in four:
            text = f"{node.ssh.host} is in {four}, which is the Services' and accepted from pods and the tunnel alone"
            yield document.problem(("nodes", node.name, "ssh"), text, "change cluster.network.services4")
    six, at = ipaddress.IPv6Network(network.services6 or plan.cidr6(0)), ("cluster", "network", "services6")
    if not six.subnet_of(ipaddress.IPv6Network(plan.cidr6(0))) or (
        network.services6 and not 108 <= six.prefixlen <= 125
    ):
        text = f"{six} must be a part of {network.prefix6}::/32, of /108 to /125"
        yield document.problem(at, text, f"give {network.prefix6}::/112")


def _node_ports(document: Document, cluster: ClusterSettings, nodes: Sequence[Node]) -> Iterator[UsageError]:
    at = ("cluster", "network", "node_ports")
    ipv6 = [] if cluster.network.services6 else [node.name for node in nodes if ":" in node.peer_ip]
    if "lan" in cluster.network.node_ports and ipv6:
        text = f"lan: Services are IPv4, so NodePorts cannot answer on the IPv6 peer_ip of {listed(ipv6)}"
        hint = "remove lan, which nodes with IPv4 can have by kube.nodePorts in nix/hosts, or set services6"
        yield document.problem(at, text, hint)


def _addons(document: Document, cluster: ClusterSettings) -> Iterator[UsageError]:
    names: dict[str, str] = {}
    for position, addon in enumerate(cluster.addons):
        at = ("cluster", "addons", position)
        if addon in cluster.addon_files and not (document.path.parent / addon).is_file():
            yield document.problem(at, f"{addon}: no such file in the workspace")
        other = names.setdefault(Path(addon).name, addon)
        if other != addon:
            yield document.problem(at, f"{addon} has the same file name as {other}")
