"""A system in the Nix store as the lab's programs made it (see toplevel)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.node.plan import Unit

CURRENT = Path("/run/current-system")
PROFILE = Path("/nix/var/nix/profiles/system")


@dataclass(frozen=True)
class System:
    """The system at ``path``, an absolute path in the Nix store."""

    path: Path

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Its description, with ``missing`` (programs that units lack here) and ``links`` (targets and their units)."""
        manifest: Mapping[str, Any] = json.loads((self.path / "manifest.json").read_text())
        return manifest

    @property
    def units(self) -> dict[str, Unit]:
        """Its units by name."""
        folder = self.path / "etc/systemd/system"
        found: dict[str, Unit] = {}
        for path in folder.iterdir() if folder.is_dir() else []:
            if path.name.endswith(".d"):
                found[path.name.removesuffix(".d")] = Unit((path / "overrides.conf").read_text(), dropin=True)
            elif path.is_symlink() and str(path.readlink()) == "/dev/null":
                found[path.name] = Unit("", masked=True)
            elif path.is_file() and not path.is_symlink():
                found[path.name] = Unit(path.read_text())
        return found

    @property
    def targets(self) -> frozenset[str]:
        """The targets that start units of this system."""
        return frozenset(self.manifest["links"])


def current() -> System | None:
    """The running system, None before the first activation since the machine started."""
    return System(CURRENT.resolve()) if CURRENT.is_symlink() and CURRENT.exists() else None
