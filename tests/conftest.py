"""Shared by all tiers: the marker of each folder, and how a test says that something is missing here."""

import os
import signal
from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from smallkube.core.workspace import Workspace

TESTS = Path(__file__).parent
TIERS = ("integration", "lab", "virtual", "cluster")
ON_MACHINES = ("lab", "virtual", "cluster")
"""One process runs a file of these whole; the machines that several files share are made once for each process."""

LONGEST = (
    *("test_one_machine", "test_identities", "test_trust", "test_rebuild", "test_readme", "test_smoke"),
    *("test_encryption", "test_upgrade", "test_smoke_faults", "test_admins", "test_getting_started"),
    *("test_secret_leaks", "test_revoke", "test_tokens", "test_monitoring", "test_addons", "test_moving_over"),
    *("test_survival", "test_deploy_faults", "test_lab"),
)
"""Files that take minutes: begun first, so that no process is at one alone in the end."""


def pytest_configure() -> None:
    """Shells start background jobs with Ctrl-C ignored, nohup ignores SIGHUP: all our children would inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says what else this machine does, and nothing of what is tested.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@cache
def shares_cluster(file: str) -> bool:
    """Whether its tests use the cluster that tests/cluster/conftest.py makes for all, and no other one."""
    text = (TESTS.parent / file).read_text()
    return "cluster: LabCluster" in text and "make_cluster" not in text


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes: whole files to one where tests share machines, else each test to whichever is free.

    What shares a cluster goes to every second process while there is other work too: an idle cluster takes a tenth of a
    core, and each process makes its own.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FilesOrTests(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if Path(file).parent.name in ON_MACHINES else nodeid

        def _assign_work_unit(self, node: Any) -> None:
            shared = self.nodes.index(node) % 2 == 0
            files = takewhile(lambda scope: Path(scope).parent.name == "cluster", self.workqueue)
            if fitting := next((file for file in files if shares_cluster(file) is shared), None):
                self.workqueue.move_to_end(fitting, last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False  # it goes by the number of tests, not by their time
    return FilesOrTests(config, log)


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
