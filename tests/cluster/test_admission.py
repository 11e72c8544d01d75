"""What the API server refuses although root asks: pods that could take over their node, addresses of others, and fields
that it does not know.
"""

import json
from typing import Any

from lab.machine import Result
from smallkube.kube.members import APPLY
from tests.cluster.conftest import LabCluster, pod

NAMESPACE = "test-admission"


def dry_run(cluster: LabCluster, namespace: str, made: dict[str, Any]) -> Result:
    return cluster.ask("-n", namespace, "create", "--dry-run=server", "--filename=-", stdin=json.dumps(made))


def test_a_privileged_pod_needs_a_namespace_for_it(cluster: LabCluster) -> None:
    made = pod("privileged", "node2")
    made["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    assert dry_run(cluster, "kube-system", made).returncode == 0
    with cluster.namespace(NAMESPACE, wait=False) as namespace:
        refused = dry_run(cluster, namespace, made)
        assert (refused.returncode, 'violates PodSecurity "baseline:latest": privileged' in refused.stderr) == (1, True)
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
        cluster.kubectl("-n", namespace, "create", "--filename=-", stdin=json.dumps(made))
        ready = ("wait", "--for=condition=Ready", "--timeout=60s", "pod/privileged")
        cluster.kubectl("-n", namespace, *ready, seconds=70)


def test_external_ips_are_refused(cluster: LabCluster) -> None:
    made = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "external"},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]},
    }
    refused = dry_run(cluster, "default", made)
    assert (refused.returncode, "external IPs is denied" in refused.stderr) == (1, True)


def test_unknown_fields_are_refused(cluster: LabCluster) -> None:
    """Also where kubectl checks nothing, as when add-ons are applied."""
    made = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "unknown"},
        "spec": {"ports": [{"port": 80}], "selectr": {"app": "x"}},
    }
    refused = cluster.ask(*APPLY, "--dry-run=server", stdin=json.dumps(made))
    assert (refused.returncode, ".spec.selectr: field not declared in schema" in refused.stderr) == (1, True)
