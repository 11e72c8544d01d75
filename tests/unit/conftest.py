"""A cluster in memory for the tests of operations."""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.core import files, ui
from smallkube.core.workspace import Workspace
from smallkube.operations import encryption
from smallkube.operations.engine import Runbook
from tests.conftest import INVENTORY
from tests.unit.fake_cluster import FakeCluster, generate_keys
from tests.unit.screen import Terminal

parse_configuration = functools.cache(encryption.parse)  # YAML would take a third of the tests' time


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with keys, to be copied."""
    root = tmp_path_factory.mktemp("template")
    (root / "inventory.yaml").write_text(INVENTORY)
    generate_keys(Workspace(root))
    return root


@pytest.fixture
def cluster(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what a power cut leaves is no matter here, and time is
    monkeypatch.setattr(files, "_sync_contents", lambda _: None)  # and the start of sixteen threads for each change
    monkeypatch.setattr(Runbook, "back_up", lambda _: None)
    monkeypatch.setattr(encryption, "parse", parse_configuration)
    return FakeCluster(Workspace(shutil.copytree(template, tmp_path / "workspace")))


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Makes standard output a terminal of so many columns, or a pipe."""
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def made(columns: int = 80, encoding: str = "utf-8", tty: bool = True) -> Terminal:
        opened = Terminal(encoding, tty)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdout", opened)
        ui.accept_any_text()
        return opened

    return made
