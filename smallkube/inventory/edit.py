"""Edits of inventory.yaml that keep comments, order and quotes."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from smallkube.core.errors import UsageError
from smallkube.core.files import write_file


def add_node(text: str, name: str, *, peer_ip: str, ssh_host: str | None = None) -> str:
    """``text`` with node ``name`` appended.

    Raises UsageError when it is there already. The caller validates the result.
    """
    yaml, document = _read(text)
    if name in document["nodes"]:
        raise UsageError(f"{name} is in the inventory already")
    entry = CommentedMap(peer_ip=peer_ip)
    if ssh_host:
        entry["ssh"] = CommentedMap(host=ssh_host)
        entry["ssh"].fa.set_flow_style()
    document["nodes"][name] = entry
    return _written(yaml, document)


def remove_node(text: str, name: str) -> str:
    """``text`` without node ``name``; the others keep their names, and so their indices and addresses.

    Raises UsageError when it is not there, or is the primary.
    """
    yaml, document = _read(text)
    if name not in document["nodes"]:
        raise UsageError(f"no node {name!r} in the inventory")
    if name == "node1":
        raise UsageError("node1 is the primary and can't be removed")
    del document["nodes"][name]
    return _written(yaml, document)


def write(file: Path, text: str) -> None:
    """Give inventory.yaml this content; its mode stays."""
    write_file(file, text, mode=file.stat().st_mode & 0o777)


def _read(text: str) -> tuple[YAML, Any]:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml, yaml.load(text)


def _written(yaml: YAML, document: Any) -> str:
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()
