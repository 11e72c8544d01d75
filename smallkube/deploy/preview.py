"""What a deploy would change on a machine: files of the bundle, secrets, units, packages."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from smallkube.deploy.facts import unpushed_script
from smallkube.nix.bundle import Bundle
from smallkube.remote.host import Host


@dataclass(frozen=True)
class Changes:
    """Files of the bundle against the one that was deployed last; ``known`` is False where there is none to compare."""

    known: bool
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        return self.known and not (self.added or self.changed or self.removed)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The encrypted files among the added and changed ones."""
        return tuple(name for name in (*self.added, *self.changed) if name.endswith(".age"))

    def lines(self) -> list[str]:
        """A line for each file, marked as in a diff."""
        marked = [("+", self.added), ("~", self.changed), ("-", self.removed)]
        return [f"{mark} {name}" for mark, names in marked for name in names]


def changes(session: Host, bundle: Bundle) -> Changes:
    """Compare ``bundle`` with what was deployed to this machine last."""
    return compare(session.run_checked(unpushed_script("files")).text, bundle.files)


def compare(listing: str, files: Mapping[str, bytes]) -> Changes:
    """``listing``: what ``files.sh`` printed."""
    lines = listing.splitlines()
    if not lines:
        return Changes(known=False)
    there = {name: digest for digest, name in (line.split("  ", 1) for line in lines[1:])}
    here = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Changes(
        known=True,
        added=tuple(sorted(set(here) - set(there))),
        changed=tuple(sorted(name for name in set(here) & set(there) if here[name] != there[name])),
        removed=tuple(sorted(set(there) - set(here))),
    )
