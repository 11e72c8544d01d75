"""Edits of inventory.yaml: a node or an administrator is inserted or cut with its own comments, and all else stays
byte for byte.

Its comments are those on its lines, directly above its name, and below it where indented further than its name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from smallkube.core.errors import UsageError
from smallkube.core.files import write_file
from smallkube.inventory import positions

Edit = tuple[int, int, str]
"""Offsets of what is replaced, and by what."""
Entry = str | int | Mapping[str, Any]

_FILE = Path("inventory.yaml")
_NODES = ("nodes",)
_ADMINS = ("cluster", "secrets", "admins")
_COMMENT_LINE = re.compile(r"[ \t]*#[^\n]*\n")
_COMMA = re.compile(r"(?:\s|#[^\n]*\n)*(,(?:\s*(?![\s#]))?)")
"""Group 1: a comma, with the white space after it unless a comment follows."""
_LINE_END = re.compile(r"[ \t]*(,?)[ \t]*(?:#[^\n]*|\r)?\n")
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
"""Text that needs no quotes, unless it is another type in YAML."""


def nodes(text: str) -> tuple[str, ...]:
    """The names of the nodes in ``text``, which was validated."""
    return tuple(_File(text, _NODES).entries)


def add_node(text: str, name: str, *, peer_ip: str, ssh: Mapping[str, str | int] | None = None) -> str:
    """``text`` with node ``name`` after the last one; ``ssh``: the keys that are not the default.

    Raises UsageError when it is there already. The caller validates the result.
    """
    file = _File(text, _NODES)
    if name in file.entries:
        raise UsageError(f"{name} is in the inventory already")
    return file.with_new(name, {"peer_ip": peer_ip} | ({"ssh": ssh} if ssh else {}))


def change_node(text: str, name: str, path: Sequence[str], value: str | int) -> str:
    """``text`` with another value at ``path`` of a node that is there. The caller validates the result."""
    file = _File(text, (*_NODES, name, *path[:-1]))
    if not file.missing and path[-1] in file.entries:
        same = file.entries[path[-1]] == value
        return text if same else file.with_value(path[-1], value)
    first, *inner = (*file.missing, path[-1])
    entry: Entry = value
    for key in reversed(inner):
        entry = {key: entry}
    return file.with_new(first, entry, deep=0)


def remove_node(text: str, name: str) -> str:
    """``text`` without node ``name``; the others keep their names, and so their indices and addresses.

    Raises UsageError when it is not there, or is the primary.
    """
    file = _File(text, _NODES)
    if name not in file.entries:
        raise UsageError(f"no node {name!r} in the inventory")
    if name == "node1":
        raise UsageError("node1 is the primary and can't be removed")
    return file.without(name)


def add_admin(text: str, name: str, recipient: str) -> str:
    """``text`` with one administrator more, who is not there yet. The caller validates the result."""
    file = _File(text, _ADMINS)
    first, *inner = (*file.missing, name)
    value: Any = recipient
    for key in reversed(inner):
        value = {key: value}
    return file.with_new(first, value, deep=len(inner))


def change_admin(text: str, name: str, recipient: str) -> str:
    """``text`` with another recipient of an administrator who is there."""
    return _File(text, _ADMINS).with_value(name, recipient)


def remove_admin(text: str, name: str) -> str:
    """``text`` without an administrator who is there, and not the last one."""
    return _File(text, _ADMINS).without(name)


def write(file: Path, text: str) -> None:
    """Give inventory.yaml this content; its mode stays."""
    write_file(file, text, mode=file.stat().st_mode & 0o777)


class _File:
    """The file, and where each entry of one of its mappings begins and ends, by PyYAML's marks (no BOM counts).

    ``path``: the keys to the mapping; ``missing``: those of them that are not there, so that it is the one above.
    Meanwhile its lines end with LF, the last one too.
    """

    def __init__(self, text: str, path: Sequence[str]) -> None:
        """Raises UsageError when ``text`` is no YAML, or has no entries there."""
        bare = text.removeprefix(positions.BOM)
        self.bom = text[: len(text) - len(bare)]
        self.line_break = "\r\n" if 0 < bare.count("\n") == bare.count("\r\n") else "\n"
        self.end = "" if bare.endswith("\n") else "\n"
        self.text = bare.replace(self.line_break, "\n") + self.end
        document = positions.parse(self.text, _FILE)
        self.data = document.data
        mapping: yaml.Node = document.root
        self.path, self.missing = tuple[str, ...](), tuple(path)
        while self.missing:
            inner = next((value for key, value in mapping.value if key.value == self.missing[0]), None)
            if inner is None and self.path:
                break
            if not isinstance(inner, yaml.MappingNode) or not inner.value:
                raise UsageError(f"has no {'.'.join(path)} to edit", where=_FILE.name, hint="edit it with an editor")
            mapping, self.path, self.missing = inner, (*self.path, self.missing[0]), self.missing[1:]
        self.entries = self.data
        for key in self.path:
            self.entries = self.entries[key]
        assert isinstance(mapping, yaml.MappingNode)
        self.flow = bool(mapping.flow_style)
        self.keys = [key for key, _ in mapping.value]
        self.values = [value for _, value in mapping.value]
        self.starts = [key.start_mark.index for key in self.keys]
        self.ends = [_end(value) for value in self.values]

    def with_new(self, name: str, entry: Entry, *, deep: int = 1) -> str:
        """The text with another entry; in a block, ``deep`` levels of it are blocks, too."""
        edits = self._in_flow(name, entry) if self.flow else self._in_block(name, entry, deep)
        return self._edited(edits, self.entries | {name: entry})

    def with_value(self, name: str, value: str | int) -> str:
        """The text with another scalar as the value of ``name``."""
        node = self.values[list(self.entries).index(name)]
        edit = (node.start_mark.index, node.end_mark.index, _scalar(value, getattr(node, "style", None) == '"'))
        return self._edited([edit], self.entries | {name: value})

    def without(self, name: str) -> str:
        """The text without ``name``."""
        at = list(self.entries).index(name)
        return self._edited(self._cut(at), {each: entry for each, entry in self.entries.items() if each != name})

    def _edited(self, edits: Sequence[Edit], entries: Mapping[str, Any]) -> str:
        """The text after ``edits``. Raises UsageError unless it has ``entries`` then, and all else as it was."""
        text = self.text
        for start, stop, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[stop:]
        try:
            same = bool(edits) and positions.parse(text, _FILE).data == _with(self.data, self.path, entries)
        except UsageError:
            same = False
        if not same:
            raise UsageError(
                f"can't edit {'.'.join(self.path)} in this layout", where=_FILE.name, hint="edit it with an editor"
            )
        return self.bom + text.removesuffix(self.end).replace("\n", self.line_break)

    def _in_block(self, name: str, entry: Entry, deep: int) -> list[Edit]:
        """An entry after the last one, indented as that one is."""
        lines = self._lines(-1)
        if not lines:
            return []
        outer = self.keys[-1].start_mark.column
        step = re.match(r"[^\n]*\n( *)", self.text[self.starts[-1] :])
        inner = len(step[1]) if step and len(step[1]) > outer else outer + 2
        return [_rows(lines[1], _block(name, entry, outer, inner - outer, deep))]

    def _in_flow(self, name: str, entry: Entry) -> list[Edit]:
        """An entry in braces after the last one, on a line of its own where that one has its own, too."""
        quoted = self.keys[-1].style == '"'
        new, end = f"{_scalar(name, quoted)}: {_flow(entry, quoted)}", self.ends[-1]
        if not (lines := self._lines(-1)):
            return [(end, end, f", {new}")]
        comma = bool(_COMMA.match(self.text, end))
        row = _rows(lines[1], [f"{' ' * self.keys[-1].start_mark.column}{new}{',' * comma}"])
        return [row] if comma else [(end, end, ","), row]

    def _cut(self, at: int) -> list[Edit]:
        """Entry number ``at``, the comma that goes with it, and its own lines, if it has any."""
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
        """Where the lines of an entry begin and end, with its comments; None when it shares a line with something."""
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
        """The end of an entry's last line or of a comment below it that is indented further than its name."""
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


def _with(data: Mapping[str, Any], path: Sequence[str], value: Any) -> Any:
    """``data`` with another value at ``path``."""
    return {**data, path[0]: _with(data[path[0]], path[1:], value)} if path else value


def _block(name: str, entry: Entry, indent: int, step: int, deep: int) -> list[str]:
    """The lines of an entry, ``deep`` levels of which are blocks."""
    if isinstance(entry, str | int) or not deep:
        return [f"{' ' * indent}{_scalar(name)}: {_flow(entry)}"]
    inner = (_block(key, value, indent + step, step, deep - 1) for key, value in entry.items())
    return [f"{' ' * indent}{_scalar(name)}:", *chain.from_iterable(inner)]


def _rows(at: int, rows: Sequence[str]) -> Edit:
    """Insert lines."""
    return at, at, "".join(f"{row}\n" for row in rows)


def _end(node: yaml.Node) -> int:
    """Where the last value of ``node`` ends: a block's own mark is at what follows it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _scalar(value: str | int, quoted: bool = False) -> str:
    if isinstance(value, int):
        return str(value)
    plain = not quoted and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)


def _flow(value: Entry, quoted: bool = False) -> str:
    if isinstance(value, str | int):
        return _scalar(value, quoted)
    pairs = (f"{_scalar(key, quoted)}: {_flow(each, quoted)}" for key, each in value.items())
    return f"{{{', '.join(pairs)}}}"
