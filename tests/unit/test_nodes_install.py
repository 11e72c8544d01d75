"""The command of an installation, and who is no machine to be installed. The rest: integration/nix/test_install.py."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from smallkube.core import process
from smallkube.core.errors import UsageError
from smallkube.nix import flake
from smallkube.nix.bundle import Bundle
from smallkube.operations import install
from tests.unit.fake_cluster import FakeCluster

TREE = Path("/ws/.smallkube/install/node2")
IMPORTS = b"{ imports = [ ./node2-hardware.nix ]; }"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed: program → path."""
    found = {"nix": "/bin/nix"}
    monkeypatch.setattr(process, "find", found.get)
    monkeypatch.setattr(flake, "version", lambda _: (2, 31))
    return found


def command(
    cluster: FakeCluster,
    host: Mapping[str, bytes],
    where: str | None = None,
    port: int = 22,
    build_on: str = "auto",
) -> list[str]:
    node = install.target(cluster.inventory.node("node2"), where, port)
    files = {f"nix/hosts/{name}": content for name, content in host.items()}
    return [*install.Installation(node, Bundle(files), {}, Path("/run/key"), build_on).command(TREE)]


def test_the_command_of_an_installation(cluster: FakeCluster, programs: dict[str, str]) -> None:
    features = ["--extra-experimental-features", "nix-command flakes"]
    own = ["--flake", f"path:{TREE}?dir=nix#node2", "--extra-files", "/run/key", "--target-host"]
    run = ["/bin/nix", *features, "run", "github:nix-community/nixos-anywhere/1.13.0", "--"]
    assert command(cluster, {}) == [*run, *own, "root@192.168.0.2"]
    programs["nixos-anywhere"] = "/bin/nixos-anywhere"
    more = ["--ssh-port", "2222", "--build-on", "remote"]
    assert command(cluster, {}, "me@rescue", 2222, "remote") == ["/bin/nixos-anywhere", *own, "me@rescue", *more]


@pytest.mark.parametrize(
    ("host", "generated"),
    [
        ({"node2.nix": IMPORTS}, True),
        ({"node2.nix": IMPORTS, "node2-hardware.nix": b"{ }"}, False),
        ({"node2.nix": b"{ } # ./node2-hardware.nix"}, False),
        ({"node1.nix": IMPORTS, "node2.nix": b"{ }"}, False),
    ],
)
def test_only_missing_hardware_is_generated(
    host: Mapping[str, bytes], generated: bool, cluster: FakeCluster, programs: dict[str, str]
) -> None:
    flag = ["--generate-hardware-config", "nixos-generate-config", f"{TREE}/nix/hosts/node2-hardware.nix"]
    assert command(cluster, host)[-3:] == flag if generated else flag[0] not in command(cluster, host)


def test_without_nix_nothing_is_prepared(cluster: FakeCluster, programs: dict[str, str]) -> None:
    programs.clear()
    with pytest.raises(UsageError, match="Nix is not installed here, and nixos-anywhere needs it"):
        node = cluster.inventory.node("node2")
        install.prepare(cluster.cluster, node, Path("/run/key"), "auto", may_lock=False)


def test_a_ready_member_is_not_installed(cluster: FakeCluster) -> None:
    node = cluster.inventory.node("node2")
    with pytest.raises(UsageError, match=r"node2 is a member of the running cluster, and Ready; inv nodes.remove"):
        install.member_state(cluster.cluster, node, cluster.connect)
    del cluster.members["node2"]
    assert install.member_state(cluster.cluster, node, cluster.connect) == ""
    cluster.api = "inactive"
    assert "kube-apiserver.service on node1 is inactive" in install.member_state(cluster.cluster, node, cluster.connect)
    cluster.off.add("node1")
    assert "can't be reached" in install.member_state(cluster.cluster, node, cluster.connect)
