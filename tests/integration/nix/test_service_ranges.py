"""Proves that the ranges of the Services that the inventory chooses reach the API server, routes, rules and names."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.checks.consistency import fleet_complaints, node_complaints
from lab.checks.systemd_text import sections
from smallkube.core import process
from smallkube.inventory.addressing import Addressing

from .conftest import Build, Describe
from .test_modules import chain
from .test_services import flags

pytestmark = pytest.mark.integration

FOUR, SIX = "10.96.0.0/16", "fd88::/112"


@pytest.mark.parametrize(
    ("prefer", "ranges", "advertised", "own"),
    [("ipv4", [FOUR, SIX], "10.88.1.1", "10.96.0.1"), ("ipv6", [SIX, FOUR], "fd88:1::1", "fd88::1")],
)
def test_services_of_both_families_in_ranges_of_choice(
    prefer: str, ranges: list[str], advertised: str, own: str, build: Build, describe: Describe
) -> None:
    network = {"services4": FOUR, "services6": SIX, "prefer": prefer}
    nodes = describe(build((1, 2), network=network, api={"tls": "insecure"}))
    assert [complaint for node in nodes.values() for complaint in node_complaints(node)] == []
    assert fleet_complaints(nodes) == ()
    given = flags(nodes["node1"], "kube-apiserver")
    assert given["service-cluster-ip-range"].split(",") == ranges
    assert given["advertise-address"] == advertised
    (script,) = [
        text for path, text in nodes["node1"]["scripts"].items() if path.endswith("-kube-apiserver-certificate")
    ]
    assert f",IP:{own}," in script
    for name, node in nodes.items():
        routes = [part for part in sections(node["networkd"]["10-brkube.network"]) if part.name == "Route"]
        hosts = {FOUR: f"10.88.{name[-1]}.1", SIX: f"fd88:{name[-1]}::1"}
        assert {part.last("Destination"): part.last("PreferredSource") for part in routes} == hosts
        assert chain(node, "prerouting")[-2:] == [
            "ip6 daddr fd88::/16 drop",
            f"ip daddr {{ 10.88.0.0/16, {FOUR} }} drop",
        ]
        (corefile,) = [text for path, text in node["files"].items() if path.endswith("-Corefile")]
        assert f"kubernetes k8s.internal fd88::/16 10.88.0.0/16 {FOUR} {{\n" in corefile


@pytest.mark.parametrize(
    ("prefer", "services4", "services6"),
    [
        ("ipv4", "10.88.0.8/29", None),
        ("ipv4", "100.64.7.16/28", None),
        ("ipv6", "10.88.0.128/25", "fd88:0:5::/108"),
        ("ipv6", None, "fd88::1:a8/125"),
    ],
)
def test_first_address_is_that_of_the_inventory(
    prefer: str, services4: str | None, services6: str | None, build: Build, describe: Describe
) -> None:
    network = {"services4": services4, "services6": services6, "prefer": prefer}
    scripts = describe(build((1,), network=network, api={"tls": "insecure"}))["node1"]["scripts"]
    (script,) = [text for path, text in scripts.items() if path.endswith("-kube-apiserver-certificate")]
    plan = Addressing(prefer=prefer, services4=services4 or "", services6=services6 or "")
    assert f",IP:{plan.api_service_ip},IP:fd88:1::1," in script


def test_rules_with_a_range_elsewhere_load(
    build: Build, describe: Describe, needs: Callable[[str, object, str], None], tmp_path: Path
) -> None:
    needs("integration", process.find("nft") and os.geteuid() == 0, "nft and root")
    node = describe(build((1, 2), network={"services4": FOUR, "services6": SIX}))["node2"]
    (tmp_path / "rules").write_text(node["nftables"])
    result = process.run(["unshare", "--net", "nft", "--check", "--file", tmp_path / "rules"])
    assert result.ok, result.stderr
