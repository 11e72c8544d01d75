"""inventory.yaml → ``Inventory``: validated, frozen. The only reader of that file.

Fields are in ``inventory_models``, rules over several of them in ``inventory_rules``, lines in ``inventory_yaml``.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from smallkube import inventory_rules, inventory_yaml
from smallkube.addressing import Addressing
from smallkube.errors import ManyErrors, UsageError
from smallkube.inventory_models import Cluster, Model, NodeEntry
from smallkube.inventory_yaml import Document, KeyPath

NODE_NAME = re.compile(r"node([1-9][0-9]{0,2})")
MAX_INDEX = 254


M = TypeVar("M", bound=Model)


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


_MESSAGES = {
    "extra_forbidden": "unknown key",
    "missing": "this key is missing",
    "string_type": 'must be text; put it in quotes ("…")',
    "int_type": "must be a whole number",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)",
    "dict_type": "must be a mapping (key: value)",
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
    """An error of pydantic in our words; in its own when it is of a kind that our models don't cause."""
    if kind in _MESSAGES:
        return _MESSAGES[kind].format_map(context)
    return message[:1].lower() + message[1:]
