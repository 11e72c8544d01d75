"""A cluster in memory for the tests of operations."""

import functools
import os
import shutil
from pathlib import Path

import pytest

from smallkube.core.workspace import Workspace
from smallkube.operations import encryption
from smallkube.operations.engine import Runbook
from tests.conftest import INVENTORY
from tests.unit.fake_cluster import FakeCluster, generate_keys

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
    monkeypatch.setattr(Runbook, "back_up", lambda _: None)
    monkeypatch.setattr(encryption, "parse", parse_configuration)
    return FakeCluster(Workspace(shutil.copytree(template, tmp_path / "workspace")))
