"""systemd's own file format, read as far as checks need it: sections with keys that may occur several times."""

import re
from dataclasses import dataclass

Keys = dict[str, list[str]]


@dataclass(frozen=True)
class Section:
    """One ``[Name]`` with its keys; a file may have several of one name (``[WireGuardPeer]``)."""

    name: str
    keys: Keys

    def words(self, *keys: str) -> list[str]:
        """All words of these keys' values, in order."""
        return [word for key in keys for value in self.keys.get(key, []) for word in value.split()]

    def last(self, key: str, default: str = "") -> str:
        values = self.keys.get(key)
        return values[-1] if values else default


def sections(text: str) -> tuple[Section, ...]:
    """The sections of a unit or network file; continuation lines are joined (systemd.syntax(7))."""
    found: list[Section] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            found.append(Section(stripped[1:-1], {}))
        elif found and "=" in stripped and stripped[0] not in "#;":
            key, value = stripped.split("=", 1)
            found[-1].keys.setdefault(key.strip(), []).append(value.strip())
    return tuple(found)


def section(text: str, name: str) -> Section:
    """The first section of this name; an empty one when there is none."""
    return next((entry for entry in sections(text) if entry.name == name), Section(name, {}))
