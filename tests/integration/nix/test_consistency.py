"""Proves that every evaluated node hangs together, and that the nodes fit each other."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checks.consistency import fleet_complaints, node_complaints
from lab.checks.evaluate import Description
from smallkube.core import process

from .conftest import Build, Describe

pytestmark = pytest.mark.integration

Needs = Callable[[str, object, str], None]
HOST = "nix/hosts/node2.nix"


def test_every_cluster_is_consistent(cluster: dict[str, Description]) -> None:
    assert [complaint for node in cluster.values() for complaint in node_complaints(node)] == []
    assert fleet_complaints(cluster) == ()


def test_a_unit_that_a_node_does_not_have_is_found(build: Build, describe: Describe) -> None:
    host = '{ systemd.services.x = { script = "true"; after = [ "etcd.service" ]; }; }'
    complaints = node_complaints(describe(build((1, 2)).with_file(HOST, host))["node2"])
    assert [text for text in complaints if "etcd.service" in text] == list(complaints) != []


def test_an_overlap_between_nodes_is_found(build: Build, describe: Describe) -> None:
    own = '{ systemd.network.networks."10-brkube".addresses = [ { Address = "10.88.1.2/24"; } ]; }'
    complaints = fleet_complaints(describe(build((1, 2)).with_file(HOST, own)))
    assert any("networks overlap" in text for text in complaints)


def test_the_rule_set_reloads_without_touching_others(
    two: dict[str, Description], needs: Needs, tmp_path: Path
) -> None:
    needs("integration", process.find("nft") and os.geteuid() == 0, "nft and root")
    rules = tmp_path / "rules.nft"
    rules.write_text(two["node1"]["nftables"])
    script = (
        'nft add table ip kube-proxy && nft add table ip6 nat && nft -f "$1" && nft list ruleset >"$2" && '
        'nft -f "$1" && nft list ruleset | diff - "$2" && nft list tables'
    )
    result = process.run(["unshare", "--net", "sh", "-ec", script, "sh", rules, tmp_path / "first"])
    assert result.ok, result.stdout + result.stderr
    assert set(result.stdout.splitlines()) == {
        "table ip kube-proxy",
        "table ip6 nat",
        "table inet nixos-fw",
        "table inet kube-guard",
        "table ip kube-nat",
        "table ip6 kube-nat",
    }
