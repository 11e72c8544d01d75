"""Nodes and their addresses from elsewhere: the output of OpenTofu or Terraform, or a peers.json.

Formats: `tofu output -json` is an object of {"value": …} for each output, `tofu output -json NAME` the bare value
(opentofu.org/docs/cli/commands/output); keys/peers.json is a list of objects with PeerIP, null for holes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallkube.core.errors import UsageError, listed
from smallkube.core.files import read_given
from smallkube.inventory import edit, load

Fields = dict[tuple[str, ...], str | int]
"""Path below a node, such as ("ssh", "host") → value."""

_KEYS: Mapping[tuple[str, ...], type] = {
    ("peer_ip",): str,
    ("ssh", "host"): str,
    ("ssh", "port"): int,
    ("ssh", "user"): str,
    ("ssh", "become"): str,
}
_SHAPE = (
    'expected {"node1": "ADDRESS", …}, {"node1": {"peer_ip": "ADDRESS", "ssh": {"host": …}}, …}, or a list of these'
)
MAX_BYTES = 4 << 20


def read(path: Path, output: str) -> dict[str, Fields]:
    """Name of a node → its fields, in a file; ``output``: which output of OpenTofu. Raises UsageError."""
    data = read_given(path, MAX_BYTES)
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UsageError("not JSON", where=str(path), hint="write it by `tofu output -json`") from None
    return nodes(found, output, str(path))


def nodes(found: Any, output: str, where: str) -> dict[str, Fields]:
    """The same of what JSON has. Raises UsageError."""
    outputs = found if isinstance(found, dict) else {}
    if outputs and all(isinstance(each, dict) and "value" in each for each in outputs.values()):
        if output not in outputs:
            hint = f"name one by --output: {listed(map(str, outputs))}"
            raise UsageError(f"has no output {output!r}", where=where, hint=hint)
        found = outputs[output]["value"]
    if isinstance(found, list):
        found = {f"node{index}": each for index, each in enumerate(found, 1) if each is not None}
    if not isinstance(found, dict) or not found:
        raise UsageError("has no nodes", where=where, hint=_SHAPE)
    if wrong := [name for name in found if not load.NODE_NAME.fullmatch(name)]:
        raise UsageError(f"{wrong[0][:40]!r} is not nodeN", where=where, hint=_SHAPE)
    return {name: _fields(found[name], f"{where}: {name}") for name in sorted(found, key=lambda name: int(name[4:]))}


def _fields(entry: Any, where: str) -> Fields:
    if isinstance(entry, str):
        return {("peer_ip",): entry}
    if not isinstance(entry, dict):
        raise UsageError("is no address and no object", where=where, hint=_SHAPE)
    if "PeerIP" in entry:  # of peers.json, the rest of which is not the inventory's
        entry = {"peer_ip": entry["PeerIP"]}
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in entry.items():
        inner = {(key, name): each for name, each in value.items()} if isinstance(value, dict) else {(key,): value}
        flat |= {path: each for path, each in inner.items() if each is not None}  # optional() of OpenTofu
    for path, value in flat.items():
        if path not in _KEYS:
            known = ", ".join(".".join(each) for each in _KEYS)
            raise UsageError(f"unknown key {'.'.join(path)[:40]}", where=where, hint=f"the keys are {known}")
        if type(value) is not _KEYS[path]:
            kind = "a whole number" if _KEYS[path] is int else "text"
            raise UsageError(f"{'.'.join(path)} is not {kind}", where=where)
    if ("peer_ip",) not in flat:
        raise UsageError("peer_ip is missing", where=where, hint=_SHAPE)
    return flat


def merged(text: str, found: Mapping[str, Fields]) -> str:
    """``text`` of inventory.yaml with these nodes: new ones added, values of others changed, all else as it was.

    Raises UsageError. The caller validates the result.
    """
    known = edit.nodes(text)
    for name, fields in found.items():
        if name not in known:
            ssh = {path[1]: value for path, value in fields.items() if path[0] == "ssh"}
            text = edit.add_node(text, name, peer_ip=str(fields["peer_ip",]), ssh=ssh)
            continue
        for path, value in fields.items():
            text = edit.change_node(text, name, path, value)
    return text
