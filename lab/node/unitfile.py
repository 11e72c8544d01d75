"""Unit files of systemd: what they say, and whether a change of one asks for a reload or a restart.

The rules are those of NixOS' switch-to-configuration (nixos/doc/manual/development/what-happens-during-a-
system-switch).
"""

import enum
from collections.abc import Mapping

Sections = Mapping[str, Mapping[str, list[str]]]

NO_EFFECT_WHILE_RUNNING = frozenset(
    [
        "X-Reload-Triggers",
        "Description",
        "Documentation",
        "OnFailure",
        "OnSuccess",
        "OnFailureJobMode",
        "IgnoreOnIsolate",
        "StopWhenUnneeded",
        "RefuseManualStart",
        "RefuseManualStop",
        "AllowIsolate",
        "CollectMode",
        "SourcePath",
    ]
)
TRUE = frozenset({"1", "yes", "true", "on"})


class Change(enum.Enum):
    """What a changed unit file asks for."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"


def parse(text: str) -> Sections:
    """Sections, their keys and every value of each key in order; comments and continuation lines as systemd has them.

    An empty assignment clears the values before it (systemd.syntax(7)).
    """
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in _logical_lines(text):
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if not equals:
            continue
        if value.strip():
            current.setdefault(key.strip(), []).append(value.strip())
        else:
            current[key.strip()] = []
    return sections


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    pending = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not pending):
            continue
        if line.endswith("\\"):
            pending += f"{line[:-1]} "
            continue
        lines.append(pending + line)
        pending = ""
    return [*lines, pending] if pending else lines


def compare(old: str, new: str) -> Change:
    """What replacing unit file ``old`` with ``new`` asks for."""
    before, after = parse(old), parse(new)
    change = Change.NONE
    for name in {*before, *after} - {"Install"}:
        one, two = before.get(name, {}), after.get(name, {})
        for key in {*one, *two}:
            if one.get(key) == two.get(key):
                continue
            if name == "Unit" and key in NO_EFFECT_WHILE_RUNNING:
                if key == "X-Reload-Triggers":
                    change = Change.RELOAD
            elif name == "Mount" and key == "Options":
                change = Change.RELOAD
            else:
                return Change.RESTART
    return change


def flag(text: str, key: str, default: bool) -> bool:
    """A boolean of any section of the unit file (NixOS keeps its ``X-…`` in [Unit] and in [Service])."""
    for keys in parse(text).values():
        if keys.get(key):
            return keys[key][-1].lower() in TRUE
    return default


def commands(text: str) -> list[str]:
    """The command lines of all ``Exec…`` settings, without systemd's prefixes (``-``, ``+``, ``@``, ``!``, ``:``)."""
    service = parse(text).get("Service", {})
    return [value.lstrip("-+@!:|") for key, values in service.items() if key.startswith("Exec") for value in values]
