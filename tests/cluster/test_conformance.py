"""Proves with official conformance tests that accounts, kubectl, DNS and Services work, by the task that runs them."""

import json
import os

from lab.conformance import PROGRAMS
from lab.containers import bring
from lab.places import Places
from tests.cluster.conftest import LabCluster
from tests.conftest import require
from tests.lab.operating import Operator

SLICE = {
    "sig-auth": (
        "ServiceAccounts should mount an API token into pods",
        "ServiceAccounts should allow opting out of API",
    ),
    "sig-cli": ("Kubectl version", "Kubectl label", "Kubectl expose", "Kubectl run pod"),
    "sig-network": (
        "DNS should provide DNS for the cluster",
        "Services should serve a basic endpoint",
        "intra-pod.* http",
        "should create Endpoints and EndpointSlices for Pods",
        "multiple ports specified in multiple EndpointSlices",
        "multiple endpoint IPs specified in multiple EndpointSlices",
    ),
}
"""SIG → what the names of its tests contain; they take seconds each, and run at the same time."""


def test_a_slice_of_the_official_tests_passes(cluster: LabCluster) -> None:
    built = PROGRAMS.built(Places.find(os.environ).cache)
    require("cluster", built, "the conformance tests are not built (make lab-conformance)")
    assert built is not None
    lab, root = cluster.operator.lab, cluster.operator.root
    for machine in lab.machines:
        bring(machine, built / PROGRAMS.prefix / "images")
    cluster.operator.done("cluster.kubeconfig", "--via", "tunnel")
    record = lab.record
    assert record is not None
    kubectl = f"{record.kubernetes}/opt/smallkube-lab/kubernetes/bin/kubectl"
    program = built / PROGRAMS.prefix / "bin/e2e.test"
    focus = "|".join(name for names in SLICE.values() for name in names)
    inside = Operator(lab, root, ("nsenter", f"--net=/proc/{lab.machine('node1').init}/ns/net", "--"))
    task = inside.start(
        "cluster.conformance", "--program", str(program), "--kubectl", kubectl, "--focus", focus, "--json"
    )
    done = inside.end(task, seconds=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["results"]) == sum(map(len, SLICE.values()))
    assert {entry["state"] for entry in found["results"]} == {"passed"} and not found["not_run"]
