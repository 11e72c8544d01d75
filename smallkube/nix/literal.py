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


def literal(value: object) -> str:
    """``value`` as a Nix expression that evaluates to it again; strings in it have no line breaks of their own.

    Takes None, bool, int, str, NixPath, sequences and mappings with str keys. Raises ValueError on NUL (Nix strings
    can't hold it), TypeError on any other kind.
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
            return _block("{", [f"{_name(key)} = {literal(item)};" for key, item in value.items()], "}")
        case Sequence():
            return _block("[", [literal(item) for item in value], "]")
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


def _name(key: str) -> str:
    return key if _BARE_NAME.fullmatch(key) and key not in _KEYWORDS else _string(key)


def _block(start: str, items: Sequence[str], end: str) -> str:
    lines = "\n".join(items).replace("\n", "\n  ")
    return f"{start}\n  {lines}\n{end}" if items else f"{start} {end}"
