"""Shared by all tiers: the marker of each folder, and how a test says that something is missing here."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.workspace import Workspace

TIERS = ("integration", "lab", "cluster")


def pytest_configure() -> None:
    """Shells start background jobs with Ctrl-C ignored, which Python and all its children would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.parent.name
        if tier in TIERS:
            item.add_marker(tier)


def require(tier: str, condition: object, reason: str) -> None:
    """Skip unless ``condition``; where ``SMALLKUBE_REQUIRE`` lists ``tier`` (``all``: each of TIERS), fail instead.

    ``nixpkgs`` is no such tier: no package manager brings nixpkgs' lib to a machine without Nix and network.
    """
    if condition:
        return
    required = os.environ.get("SMALLKUBE_REQUIRE", "").split(",")
    if tier in required or ("all" in required and tier in TIERS):
        pytest.fail(f"needed here: {reason}")
    pytest.skip(reason)


@pytest.fixture
def needs() -> Callable[[str, object, str], None]:
    """``needs(tier, condition, reason)``: see ``require``."""
    return require


INVENTORY = """\
cluster:
  name: test
nodes:
  node1:
    peer_ip: 192.168.0.1
  node2:
    peer_ip: 192.168.0.2
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh workspace: an inventory of two nodes, nothing generated yet."""
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    return Workspace(tmp_path)
