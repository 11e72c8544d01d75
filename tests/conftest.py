"""Shared by all tiers: the marker of each folder, and how a test says that something is missing here."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from smallkube.workspace import Workspace

TESTS = Path(__file__).parent
TIERS = ("integration", "lab", "cluster")
ON_MACHINES = ("lab", "cluster")
SHARED_MACHINES = ("cluster", "deployed", "two_nodes")
"""Fixtures that are made once for the tests of several files."""


def pytest_configure() -> None:
    """Shells start background jobs with Ctrl-C ignored, which Python and all its children would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        if tier in ON_MACHINES:
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """Tests of one group are run by one process, one after the other: those that share machines, or a file's own."""
    fixtures = getattr(item, "fixturenames", ())
    return next((name for name in SHARED_MACHINES if name in fixtures), item.path.stem)


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
