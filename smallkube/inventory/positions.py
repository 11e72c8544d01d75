"""YAML with positions: every key knows its line, so that a problem can name file, line and key.

Refused, because an inventory never needs them and mistakes or attacks do: duplicate keys, anchors and aliases
(a few bytes of which expand to gigabytes), tags, deep nesting, and files over ``MAX_BYTES``. These limits are checked
here, before PyYAML meets one of its own, whose errors differ from version to version.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError

KeyPath = tuple[Any, ...]
"""Keys and list positions from the top of the file to a value."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL_CHARACTER = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)
"""What YAML 1.1 allows nowhere (section 5.1), and line breaks that editors or YAML 1.2 don't take for such; escapes in
double quotes can still write it."""
BOM = "\ufeff"
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)")
"""The whole numbers that are the same in YAML 1.1 and 1.2: 022, 22:22, 1_000 and 0x16 are not."""
_BRACKET = re.compile(
    r"""(?<![^\s\[{,:])"(?:\\[\s\S]|[^"\\])*+" | (?<![^\s\[{,:])'(?:[^']|'')*+' | (?<!\S)\#.* | ([\[{]) | ([\]}])""",
    re.VERBOSE,
)
"""Quoted text and comments, which are passed over; group 1: an opening bracket, group 2: a closing one."""


class Document:
    """A parsed file: ``data`` has plain values, lists as tuples; ``lines`` the line (from 1) of each key."""

    def __init__(self, path: Path, root: yaml.Node) -> None:
        """Raises ErrorGroup with all that is not supported."""
        self.path = path
        self.root = root
        self.lines: dict[KeyPath, int] = {}
        self._faults: list[UsageError] = []
        self._scalars = yaml.constructor.SafeConstructor()
        self.data = self._build(root, ())
        if self._faults:
            raise ErrorGroup(self._faults)

    def line(self, at: KeyPath) -> int:
        """The line of ``at``, or of the nearest enclosing key when it is not in the file."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def problem(self, at: KeyPath, message: str, hint: str | None = None) -> UsageError:
        """A problem at a key of this file."""
        key = ".".join(str(part) for part in at)
        return _problem(self.path, self.line(at), f"{key}: {message}" if key else message, hint)

    def line_of(self, problem: SmallkubeError) -> int:
        """The line that a problem of this file names."""
        return int((problem.where or ":0").rsplit(":", 1)[-1])

    def _build(self, node: yaml.Node, at: KeyPath) -> Any:
        self.lines.setdefault(at, node.start_mark.line + 1)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            self._fault(node, f"value of the kind {node.tag} is not supported")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._build(item, (*at, position)) for position, item in enumerate(node.value))
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, "a key must be plain text")
                continue
            key = self._scalar(key_node)
            if key in values:
                first = self.lines[(*at, key)]
                self._fault(key_node, f"{key}: duplicate key; first defined on line {first}")
                continue
            self.lines[(*at, key)] = key_node.start_mark.line + 1
            values[key] = self._build(value_node, (*at, key))
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            self._fault(node, f"value of the kind {node.tag} is not supported")
            return None
        if isinstance(value, int) and not isinstance(value, bool) and not _DECIMAL.fullmatch(node.value):
            self._fault(node, f"{node.value} would be read as {value}; write a decimal number, or text in quotes")
        if isinstance(value, str) and _CONTROL_CHARACTER.search(value):
            self._fault(node, "holds a control character; remove it")
        return value

    def _fault(self, node: yaml.Node, message: str) -> None:
        self._faults.append(_problem(self.path, node.start_mark.line + 1, message))


def parse(text: str, path: Path) -> Document:
    """Parse ``text``, the present or future content of ``path``.

    Raises UsageError (with a line) on anything that is not plain, small, unambiguous YAML.
    """
    text = text.removeprefix(BOM)
    if found := _CONTROL_CHARACTER.search(text):
        message = "holds a control character, or a line break other than LF and CRLF"
        raise _problem(path, _line(found), message, "remove it")
    _check_brackets(text, path)
    try:
        _check_events(text, path)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        raise UsageError(f"not valid YAML: {error.problem or error.context}", where=where) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"not valid YAML: {error}", where=path.name) from error
    if root is None:
        raise UsageError("the file is empty", where=path.name, hint="the least is a cluster name and two nodes")
    return Document(path, root)


def _check_brackets(text: str, path: Path) -> None:
    """Nested brackets are counted before PyYAML reads them: it reads a line ahead of what it reports."""
    depth = 0
    for found in _BRACKET.finditer(text):
        depth = max(depth + bool(found[1]) - bool(found[2]), 0)
        if depth > MAX_DEPTH:
            raise _problem(path, _line(found), _TOO_DEEP)


def _line(found: re.Match[str]) -> int:
    return found.string.count("\n", 0, found.start()) + 1


def _check_events(text: str, path: Path) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1 if event.start_mark else 1
        if depth > MAX_DEPTH:
            raise _problem(path, line, _TOO_DEEP)
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            raise _problem(path, line, "anchors and aliases are not supported", "write the value out")


def _problem(path: Path, line: int, message: str, hint: str | None = None) -> UsageError:
    return UsageError(message, where=f"{path.name}:{line}", hint=hint)


def read_text(path: Path) -> str:
    """The text of ``path``, with its BOM. Raises UsageError when it is not there, not UTF-8 or far too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"larger than {MAX_BYTES:,} bytes: this is not an inventory", where=path.name)
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise UsageError("no such file", where=str(path), hint="create it; README.md shows the least one") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _problem(path, line, "not UTF-8 text") from error
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
