"""Python value → Nix literal. Everything that a template writes into a Nix file goes through here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_BARE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_'-]*")
_BARE_PATH = re.compile(r"(\.\.?/)[a-zA-Z0-9._+-]+(/[a-zA-Z0-9._+-]+)*")
_KEYWORDS = frozenset(["assert", "else", "if", "in", "inherit", "let", "or", "rec", "then", "with"])
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class NixPath:
    """A path relative to the file it is written in, starting with ``./`` or ``../``."""

    text: str


def literal(value: object, indent: int = 0) -> str:
    """``value`` as a Nix expression that evaluates to it again.

    Takes None, bool, int, str, NixPath, sequences and mappings with str keys; ``indent`` is that of the line the
    expression starts in. Raises ValueError on NUL (Nix strings can't hold it), TypeError on any other kind.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value >= 0 else f"({value})"
        case str():
            return _string(value)
        case NixPath():
            return _path(value.text)
        case Mapping():
            return _attributes(value, indent)
        case Sequence():
            return _list(value, indent)
    raise TypeError(f"no Nix literal for {type(value).__name__}")


def _string(value: str) -> str:
    if "\0" in value:
        raise ValueError("a Nix string can't hold a NUL character")
    escaped = "".join(_ESCAPES.get(char, char) for char in value)
    return '"' + escaped.replace("${", "\\${") + '"'


def _path(text: str) -> str:
    if _BARE_PATH.fullmatch(text):
        return text
    start, rest = text.split("/", 1)
    return f"({start}/. + {_string('/' + rest)})"


def _attributes(value: Mapping[str, object], indent: int) -> str:
    if not value:
        return "{ }"
    inner = " " * (indent + 2)
    lines = [f"{inner}{_name(key)} = {literal(item, indent + 2)};\n" for key, item in value.items()]
    return "{\n" + "".join(lines) + " " * indent + "}"


def _name(key: str) -> str:
    return key if _BARE_NAME.fullmatch(key) and key not in _KEYWORDS else _string(key)


def _list(value: Sequence[object], indent: int) -> str:
    if not value:
        return "[ ]"
    inner = " " * (indent + 2)
    return "[\n" + "".join(f"{inner}{literal(item, indent + 2)}\n" for item in value) + " " * indent + "]"
