"""Proves that with cluster.monitoring the primary reads the metrics of everything, by a certificate for no more.

The node exporter is off: the lab has no such program.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cluster.conftest import LabCluster

FOLDER = "/etc/smallkube/monitoring"
PAIR = ("--cert", f"{FOLDER}/monitoring.crt", "--key", "/run/agenix/monitoring.key")
CODE = ("curl", "--silent", "--insecure", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}")
ON_TUNNEL = (9153, 9537, 10249)
SHOWN = {
    "kube-apiserver": "apiserver_request_total",
    "kube-controller-manager": "workqueue_depth",
    "kube-scheduler": "scheduler_pending_pods",
    "etcd": "etcd_server_has_leader",
    "kubelet": "kubelet_running_pods",
    "cadvisor": "container_memory_working_set_bytes",
    "coredns": "coredns_dns_requests_total",
    "crio": "container_runtime_crio_operations_total",
    "kube-proxy": "kubeproxy_sync_proxy_rules_duration_seconds_count",
}
"""Job → a metric by which alerts or the dashboard go."""


@pytest.fixture(scope="module")
def monitored(cluster: LabCluster) -> Iterator[LabCluster]:
    """The shared cluster with monitoring, and without it again."""
    operator, file = cluster.operator, cluster.operator.workspace.inventory_file
    before = file.read_text()
    # Those of another file may still be ending, and stand in the way of the drain.
    cluster.eventually("no pod", lambda: not cluster.get("pods", "--all-namespaces")["items"])
    with ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(operator.extra(node, "services.prometheus.exporters.node.enable = false;"))
        file.write_text(before.replace("cluster:\n", "cluster:\n  monitoring: true\n", 1))
        for words in (("keys.generate",), ("nix.render",), ("deploy",)):
            operator.done(*words)
        yield cluster
    file.write_text(before)
    for name in ("monitoring.key.age", "monitoring.crt"):
        (operator.workspace.keys_dir / name).unlink()
    for words in (("keys.generate",), ("nix.render",), ("deploy",)):
        operator.done(*words)


def jobs(cluster: LabCluster) -> dict[str, dict[str, Any]]:
    text = cluster.machine("node1").check("cat", f"{FOLDER}/prometheus.yaml")
    return {job["job_name"]: job for job in json.loads(text)["scrape_configs"] if job["job_name"] != "node"}


def metrics(cluster: LabCluster, job: dict[str, Any], target: str) -> str:
    """As Prometheus asks, with its own files, and verification where it verifies."""
    tls, words = job.get("tls_config", {}), ["curl", "--silent", "--show-error", "--fail", "--max-time", "20"]
    words += PAIR if tls else []
    words += ["--cacert", tls["ca_file"]] if "ca_file" in tls else ["--insecure"] if tls else []
    url = f"{job.get('scheme', 'http')}://{target}{job.get('metrics_path', '/metrics')}"
    return cluster.machine("node1").check(*words, url)


def test_the_primary_reads_the_metrics_of_everything(monitored: LabCluster) -> None:
    found = jobs(monitored)
    assert found.keys() == SHOWN.keys()
    for index, node in enumerate(monitored.nodes, 1):  # a counter of questions begins with the first one
        monitored.machine(node).check("dig", "+short", f"@10.88.{index}.1", "node1.k8s.internal")
    for name, job in found.items():
        for each in job["static_configs"]:
            for target in each["targets"]:
                shown = f"{SHOWN[name]} of {target}"
                monitored.eventually(shown, lambda: SHOWN[name] in metrics(monitored, job, target))  # noqa: B023


def test_the_certificate_reads_metrics_and_nothing_else(monitored: LabCluster) -> None:
    def code(url: str, *pair: str) -> str:
        return monitored.machine("node1").execute([*CODE, *pair, url]).stdout

    api, kubelet = "https://api.k8s.internal:6443", "https://node2.k8s.internal:10250"
    refused = {
        api: ("/api/v1/secrets", "/api/v1/pods", "/api/v1/nodes", "/logs", "/debug/pprof/"),
        kubelet: ("/pods", "/runningpods/", "/logs/", "/configz", "/run/default/x/y"),
        "https://127.0.0.1:10257": ("/configz", "/debug/pprof/"),
        "https://127.0.0.1:10259": ("/configz", "/debug/pprof/"),
    }
    for server, paths in refused.items():
        assert code(f"{server}/metrics", *PAIR) == "200"
        assert code(f"{server}/metrics") in ("401", "403")
        assert {path: code(server + path, *PAIR) for path in paths} == dict.fromkeys(paths, "403")


def test_no_other_machine_reads_metrics(monitored: LabCluster) -> None:
    for port in ON_TUNNEL:
        assert monitored.machine("node1").execute([*CODE, f"http://10.88.2.1:{port}/metrics"]).stdout == "200"
        assert monitored.machine("node2").execute([*CODE, f"http://10.88.1.1:{port}/metrics"]).stdout == "000"
    for port in (2381, 10257, 10259):
        assert monitored.machine("node2").execute([*CODE, f"http://10.88.1.1:{port}/metrics"]).stdout == "000"


def test_smoke_and_checks_pass_with_monitoring(monitored: LabCluster) -> None:
    for words in (("keys.check",), ("deploy.status",), ("cluster.smoke",)):
        monitored.operator.done(*words)


def test_its_certificate_is_rotated(monitored: LabCluster) -> None:
    before = monitored.machine("node1").check("cat", f"{FOLDER}/monitoring.crt")
    monitored.operator.done("keys.rotate-certificates", "--identities", "--all", "--yes")
    assert monitored.machine("node1").check("cat", f"{FOLDER}/monitoring.crt") != before
    job = jobs(monitored)["kubelet"]
    assert SHOWN["kubelet"] in metrics(monitored, job, "node2.k8s.internal:10250")
