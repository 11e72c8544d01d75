"""The version before the packages were laid out anew, out of this clone's history: what it made must go on working."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from smallkube.core.workspace import REPOSITORY

COMMIT = "7e0802a"
TOKENS = "2db9c3d"
"""The last version in which nodes identified themselves by tokens."""


@dataclass(frozen=True)
class Previous:
    """``root``: its files."""

    root: Path

    def done(self, workspace: Path, *words: str, **more: str) -> str:
        """Run one of its tasks, which must succeed; its standard output."""
        argv = [sys.executable, "-m", "invoke", "--search-root", str(self.root), *words]
        environment: Mapping[str, str] = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "SMALLKUBE_WORKSPACE": str(workspace),
            **more,
        }
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, env=environment, cwd="/"
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


def extracted(folder: Path, commit: str = COMMIT) -> Previous:
    """Its files in ``folder``; skips the test in a clone without history."""
    archive = subprocess.run(["git", "-C", str(REPOSITORY), "archive", commit], capture_output=True)
    if archive.returncode != 0:
        pytest.skip(f"this clone's history does not go back to {commit}")
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive.stdout, check=True)
    return Previous(folder)
