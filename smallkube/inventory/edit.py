"""Edits of inventory.yaml: a node is inserted or cut with its own comments, and all else stays byte for byte.

A node's comments are those on its lines, directly above its name, and below it where indented further than its name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from smallkube.core.errors import UsageError
from smallkube.core.files import write_file
from smallkube.inventory import positions

Edit = tuple[int, int, str]
"""Offsets of what is replaced, and by what."""

_FILE = Path("inventory.yaml")
_COMMENT_LINE = re.compile(r"[ \t]*#[^\n]*\n")
_COMMA = re.compile(r"(?:\s|#[^\n]*\n)*(,(?:\s*(?![\s#]))?)")
"""Group 1: a comma, with the white space after it unless a comment follows."""
_LINE_END = re.compile(r"[ \t]*(,?)[ \t]*(?:#[^\n]*|\r)?\n")
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
"""Text that needs no quotes, unless it is another type in YAML."""


def add_node(text: str, name: str, *, peer_ip: str, ssh_host: str | None = None) -> str:
    """``text`` with node ``name`` after the last one.

    Raises UsageError when it is there already. The caller validates the result.
    """
    file = _File(text)
    if name in file.nodes:
        raise UsageError(f"{name} is in the inventory already")
    entry: dict[str, Any] = {"peer_ip": peer_ip} | ({"ssh": {"host": ssh_host}} if ssh_host else {})
    edits = file.in_flow(name, entry) if file.flow else file.in_block(name, entry)
    return file.edited(edits, file.nodes | {name: entry})


def remove_node(text: str, name: str) -> str:
    """``text`` without node ``name``; the others keep their names, and so their indices and addresses.

    Raises UsageError when it is not there, or is the primary.
    """
    file = _File(text)
    if name not in file.nodes:
        raise UsageError(f"no node {name!r} in the inventory")
    if name == "node1":
        raise UsageError("node1 is the primary and can't be removed")
    at = list(file.nodes).index(name)
    return file.edited(file.without(at), {each: entry for each, entry in file.nodes.items() if each != name})


def write(file: Path, text: str) -> None:
    """Give inventory.yaml this content; its mode stays."""
    write_file(file, text, mode=file.stat().st_mode & 0o777)


class _File:
    """The file, and where each node begins and ends in it, by PyYAML's marks (which don't count a BOM).

    Meanwhile its lines end with LF, the last one too.
    """

    def __init__(self, text: str) -> None:
        """Raises UsageError when ``text`` is no YAML with nodes."""
        bare = text.removeprefix(positions.BOM)
        self.bom = text[: len(text) - len(bare)]
        self.line_break = "\r\n" if 0 < bare.count("\n") == bare.count("\r\n") else "\n"
        self.end = "" if bare.endswith("\n") else "\n"
        self.text = bare.replace(self.line_break, "\n") + self.end
        document = positions.parse(self.text, _FILE)
        self.data = document.data
        mapping = next((value for key, value in document.root.value if key.value == "nodes"), None)
        if not isinstance(mapping, yaml.MappingNode) or not mapping.value:
            raise UsageError("has no nodes", where=_FILE.name)
        self.nodes: dict[str, Any] = self.data["nodes"]
        self.flow = bool(mapping.flow_style)
        self.keys = [key for key, _ in mapping.value]
        self.starts = [key.start_mark.index for key in self.keys]
        self.ends = [_end(value) for _, value in mapping.value]

    def edited(self, edits: Sequence[Edit], nodes: Mapping[str, Any]) -> str:
        """The text after ``edits``. Raises UsageError unless its nodes are then ``nodes``, and all else as it was."""
        text = self.text
        for start, stop, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[stop:]
        try:
            same = bool(edits) and positions.parse(text, _FILE).data == self.data | {"nodes": nodes}
        except UsageError:
            same = False
        if not same:
            raise UsageError("can't edit nodes in this layout", where=_FILE.name, hint="edit it with an editor")
        return self.bom + text.removesuffix(self.end).replace("\n", self.line_break)

    def in_block(self, name: str, entry: Mapping[str, Any]) -> list[Edit]:
        """A node after the last one, indented as that one is."""
        lines = self._lines(-1)
        if not lines:
            return []
        outer = self.keys[-1].start_mark.column
        step = re.match(r"[^\n]*\n( *)", self.text[self.starts[-1] :])
        inner = " " * (len(step[1]) if step and len(step[1]) > outer else outer + 2)
        rows = [f"{' ' * outer}{_scalar(name)}:", *(f"{inner}{key}: {_flow(value)}" for key, value in entry.items())]
        return [_rows(lines[1], rows)]

    def in_flow(self, name: str, entry: Mapping[str, Any]) -> list[Edit]:
        """A node in braces after the last one, on a line of its own where that one has its own, too."""
        quoted = self.keys[-1].style == '"'
        new, end = f"{_scalar(name, quoted)}: {_flow(entry, quoted)}", self.ends[-1]
        if not (lines := self._lines(-1)):
            return [(end, end, f", {new}")]
        comma = bool(_COMMA.match(self.text, end))
        row = _rows(lines[1], [f"{' ' * self.keys[-1].start_mark.column}{new}{',' * comma}"])
        return [row] if comma else [(end, end, ","), row]

    def without(self, at: int) -> list[Edit]:
        """Node number ``at``, the comma that goes with it, and its own lines, if it has any."""
        lines, end, last = self._lines(at), self.ends[at], at == len(self.keys) - 1
        if not self.flow:
            return [(*lines, "")] if lines else []
        before, after = (_COMMA.match(self.text, self.ends[at - 1]) if at else None), _COMMA.match(self.text, end)
        if lines:
            comma = None if after else before
            return [(*lines, ""), *([(comma.start(1), comma.start(1) + 1, "")] if comma else [])]
        comma = before if last else after
        return [(self.starts[at], end, ""), *([(*comma.span(1), "")] if comma else [])]

    def _lines(self, at: int) -> tuple[int, int] | None:
        """Where the lines of a node begin and end, with its comments; None when it shares a line with something."""
        at %= len(self.keys)
        start = self.text.rfind("\n", 0, self.starts[at]) + 1
        stop = self._stop(at)
        if stop is None or self.text[start : self.starts[at]].strip():
            return None
        floor = (self._stop(at - 1) or start) if at else 0
        while start > floor:
            line = self.text.rfind("\n", 0, start - 1) + 1
            if line < floor or not _COMMENT_LINE.fullmatch(self.text, line, start):
                break
            start = line
        return start, stop

    def _stop(self, at: int) -> int | None:
        """The end of a node's last line or of a comment below it that is indented further than its name."""
        end, last = self.ends[at], at == len(self.keys) - 1
        if not (self.text[end - 1] == "\n" and not self.flow):  # a block of text ends with its line break
            found = _LINE_END.match(self.text, end)
            if not found or (self.flow and not last and not found[1]):
                return None
            end = found.end()
        below = re.compile(rf"(?:[ \t]*\r?\n)*[ \t]{{{self.keys[at].start_mark.column + 1},}}#[^\n]*\n")
        while found := below.match(self.text, end):
            end = found.end()
        return end


def _rows(at: int, rows: Sequence[str]) -> Edit:
    """Insert lines."""
    return at, at, "".join(f"{row}\n" for row in rows)


def _end(node: yaml.Node) -> int:
    """Where the last value of ``node`` ends: a block's own mark is at what follows it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _scalar(value: str, quoted: bool = False) -> str:
    plain = not quoted and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)


def _flow(value: str | Mapping[str, Any], quoted: bool = False) -> str:
    if isinstance(value, str):
        return _scalar(value, quoted)
    pairs = (f"{_scalar(key, quoted)}: {_flow(each, quoted)}" for key, each in value.items())
    return f"{{{', '.join(pairs)}}}"
