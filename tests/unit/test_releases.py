"""Verifies which releases and minors are accepted, and where Kubernetes comes from for each pair of them."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from smallkube.core.errors import ErrorGroup
from smallkube.inventory import releases
from smallkube.inventory.load import parse
from smallkube.inventory.models import ClusterSettings

NODES = "nodes: {node1: {peer_ip: 192.0.2.1}}"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def cluster(**settings: str) -> ClusterSettings:
    return ClusterSettings.model_validate({"name": "x", **settings})


@pytest.mark.parametrize(
    ("nixos", "minor", "named", "found"),
    [
        ("25.11", "1.34", {}, None),
        ("26.05", "1.36", {}, None),
        ("26.05", "1.34", {}, "nixos-25.11"),
        ("25.11", "1.35", {}, releases.PINS["1.35"].revision),
        ("25.11", "1.36", {}, releases.PINS["1.36"].revision),
        ("26.05", "1.37", {"kubernetes_nixpkgs": REVISION}, REVISION),
        ("26.05", "1.36", {"kubernetes_nixpkgs": "nixos-unstable-small"}, "nixos-unstable-small"),
    ],
)
def test_the_second_nixpkgs_of_each_pair(nixos: str, minor: str, named: dict[str, str], found: str | None) -> None:
    assert cluster(nixos=nixos, kubernetes=minor, **named).kubernetes_input == found


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("nixos", "26.11", "26.11 is no release of NixOS that smallkube supports; it supports 25.11, 26.05"),
        ("kubernetes", "1.38", "1.38 is no minor of Kubernetes that smallkube supports"),
        (
            "kubernetes",
            "1.37",
            "no revision of nixpkgs with 1.37 is known here; name one in cluster.kubernetes_nixpkgs",
        ),
        ("kubernetes_nixpkgs", "044bfe75", "does not have the form"),
        ("kubernetes_nixpkgs", "nixos-25.11?dir=x", "does not have the form"),
        ("kubernetes_nixpkgs", f"{REVISION}0", "does not have the form"),
    ],
)
def test_a_pair_that_is_not_supported_is_one_line(key: str, value: str, problem: str) -> None:
    with pytest.raises(ErrorGroup) as caught:
        parse(f'cluster:\n  name: x\n  {key}: "{value}"\n{NODES}\n', Path("inventory.yaml"))
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"inventory.yaml:3: cluster.{key}: ")


def test_inventories_without_versions_keep_the_first_pair() -> None:
    assert (cluster().nixos, cluster().kubernetes, cluster().kubernetes_input) == ("25.11", "1.34", None)


def test_every_pin_is_a_revision_of_its_minor_with_a_source() -> None:
    for minor, pin in releases.PINS.items():
        assert minor in releases.MINORS
        assert pin.kubernetes.startswith(minor)
        assert pin.source
        cluster(kubernetes_nixpkgs=pin.revision)
        assert re.fullmatch("[0-9a-f]{40}", pin.revision) or pin.revision == "nixos-25.11"
    assert set(releases.RELEASES.values()) <= set(releases.MINORS)


def test_a_malformed_release_is_refused() -> None:
    with pytest.raises(ValidationError):
        cluster(nixos="26.5")
