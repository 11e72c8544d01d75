"""Where the lab keeps its images (a cache: may be deleted) and the state of each lab."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Two folders of the user's: ``cache`` for images, ``state`` with one folder per lab."""

    cache: Path
    state: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> "Places":
        """The folders of the XDG base directory specification, ``~/.cache`` and ``~/.local/state`` by default."""
        home = Path(environ.get("HOME", "/root"))
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
        state = Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state")
        return cls(cache / "smallkube" / "lab", state / "smallkube" / "lab")
