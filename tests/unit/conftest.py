"""A cluster in memory for the tests of operations."""

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from smallkube.core import files, ui
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Inventory
from smallkube.operations import encryption
from smallkube.operations.engine import Runbook
from smallkube.secrets import policy
from smallkube.secrets.policy import Secret
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


def once_each(table: Callable[[Inventory], tuple[Secret, ...]]) -> Callable[[Inventory], tuple[Secret, ...]]:
    """``table``, made once of each inventory, none of which is ever changed."""
    known = dict[int, tuple[Inventory, tuple[Secret, ...]]]()

    def made(inventory: Inventory) -> tuple[Secret, ...]:
        if id(inventory) not in known:
            known[id(inventory)] = inventory, table(inventory)
        return known[id(inventory)][1]

    return made


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that is on no disk, where there is a file system for that: nothing in it has to last."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def cluster(template: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what a power cut leaves is no matter here, and time is
    monkeypatch.setattr(files, "_sync_contents", lambda _: None)  # and the start of sixteen threads for each change
    monkeypatch.setattr(Runbook, "back_up", lambda _: None)
    monkeypatch.setattr(encryption, "parse", parse_configuration)
    monkeypatch.setattr(policy, "secrets_of", once_each(policy.secrets_of))
    return FakeCluster(Workspace(shutil.copytree(template, memory / "workspace")))


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
