"""What the API server logs, and how much of it is kept."""

import pytest

from lab.checks.evaluate import Description

from .conftest import Build, Describe
from .test_admission import given
from .test_services import flags, service

pytestmark = pytest.mark.integration


def test_the_audit_log_has_no_bodies_and_is_bounded(two: dict[str, Description]) -> None:
    policy = given(two["node1"], "audit-policy-file")
    assert {rule["level"] for rule in policy["rules"]} == {"None", "Metadata"}
    assert policy["rules"][1] == {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]}
    assert policy["rules"][-1] == {"level": "Metadata"}
    limits = {name: value for name, value in flags(two["node1"], "kube-apiserver").items() if "audit-log-max" in name}
    assert limits == {"audit-log-maxsize": "100", "audit-log-maxage": "30", "audit-log-maxbackup": "10"}
    unit = service(two["node1"], "kube-apiserver")
    assert (unit["LogsDirectory"], unit["LogsDirectoryMode"]) == (["kube-apiserver"], ["0700"])


def test_a_machine_may_have_its_own_audit_policy(build: Build, describe: Describe) -> None:
    own = '{ kube.auditPolicy.rules = [ { level = "None"; } ]; }'
    policy = given(describe(build((1,)).with_file("nix/hosts/node1.nix", own))["node1"], "audit-policy-file")
    assert policy == {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "None"}],
    }
