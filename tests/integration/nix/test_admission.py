"""What the API server refuses though the caller has the right, as the inventory chooses it."""

import json
from typing import Any

import pytest

from lab.checks.evaluate import Description

from .conftest import Build, Describe
from .test_services import flags

pytestmark = pytest.mark.integration


def given(primary: Description, flag: str) -> dict[str, Any]:
    """The JSON of the file that a flag of the API server names."""
    found: dict[str, Any] = json.loads(primary["files"][flags(primary, "kube-apiserver")[flag]])
    return found


def pod_security(primary: Description) -> dict[str, Any]:
    (plugin,) = given(primary, "admission-control-config-file")["plugins"]
    assert plugin["name"] == "PodSecurity"
    assert plugin["configuration"]["kind"] == "PodSecurityConfiguration"
    found: dict[str, Any] = plugin["configuration"]
    return found


def test_baseline_is_enforced_but_in_kube_system(two: dict[str, Description]) -> None:
    found = pod_security(two["node1"])
    assert found["defaults"] == {"enforce": "baseline", "warn": "baseline", "audit": "baseline"}
    assert found["exemptions"] == {"namespaces": ["kube-system"]}


def test_the_inventory_chooses_levels_and_exemptions(build: Build, describe: Describe) -> None:
    chosen = {"enforce": "privileged", "warn": "restricted", "exempt_namespaces": ["a", "b-1"]}
    found = pod_security(describe(build((1,), pod_security=chosen))["node1"])
    assert found["defaults"] == {"enforce": "privileged", "warn": "restricted", "audit": "restricted"}
    assert found["exemptions"] == {"namespaces": ["a", "b-1"]}


@pytest.mark.parametrize(("network", "denied"), [({}, True), ({"external_ips": True}, False)])
def test_external_ips_are_denied_unless_allowed(
    network: dict[str, Any], denied: bool, build: Build, describe: Describe
) -> None:
    plugins = flags(describe(build((1,), network=network))["node1"], "kube-apiserver")["enable-admission-plugins"]
    assert plugins.split(",") == ["NodeRestriction", *["DenyServiceExternalIPs"] * denied]
