"""Proves that pods work on every node: they reach each other, Services, names and the API across the tunnel in both
families, also when they have not said anything before; logs, exec and port-forward pass through the verified kubelets.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import kubernetes
from tests.cluster.conftest import LabCluster, is_ready, pod

SERVE = ("sh", "-c", 'mkdir /www; hostname >/www/index.html; echo serving; exec httpd -f -p "[::]:8080" -h /www')
NAMESPACE = "test-pods"
API = "https://10.88.0.1:443/version"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
NODES = ("node1", "node2")


def service(name: str, port: int | None = None) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": 8080, **({"nodePort": port} if port else {})}]
    kind = "NodePort" if port else "ClusterIP"
    spec = {"type": kind, "selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def in_namespace(*objects: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**entry, "metadata": {**entry["metadata"], "namespace": NAMESPACE}} for entry in objects]


@pytest.fixture(scope="module")
def running(cluster: LabCluster) -> Iterator[LabCluster]:
    """A pod that serves its own name on each node (serve1, serve2), each with a Service of that name."""
    with cluster.namespace(NAMESPACE):
        for index, node in enumerate(NODES, 1):
            cluster.apply(*in_namespace(pod(f"serve{index}", node, *SERVE), service(f"serve{index}", 30080 + index)))
        await_ready(cluster, "serve1", "serve2")
        yield cluster


def await_ready(cluster: LabCluster, *names: str) -> None:
    def ready() -> bool:
        items = cluster.get("-n", NAMESPACE, "pods")["items"]
        return set(names) <= {item["metadata"]["name"] for item in items if is_ready(item)}

    cluster.eventually(f"{', '.join(names)} Ready", ready)


def addresses(cluster: LabCluster, name: str) -> list[str]:
    status = cluster.get("-n", NAMESPACE, "pod", name)["status"]
    return [entry["ip"] for entry in status["podIPs"]]


def url(address: str, port: int = 8080) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def fetch(cluster: LabCluster, name: str, target: str) -> str:
    """What a pod gets from there within three seconds; its error otherwise."""
    done = cluster.inside(NAMESPACE, name, "wget", "-q", "-T", "3", "-O", "-", target)
    return (done.stdout or done.stderr).strip()


def test_a_new_pod_is_reached_from_another_node(running: LabCluster) -> None:
    silent_pods = [pod(f"silent{index}", node, *SERVE) for index, node in enumerate(NODES, 1)]
    running.apply(*in_namespace(*silent_pods))
    await_ready(running, "silent1", "silent2")
    for asking, silent in ((1, 2), (2, 1)):
        _, six = addresses(running, f"silent{silent}")
        assert fetch(running, f"serve{asking}", url(six)) == f"silent{silent}"


@pytest.mark.parametrize(("asking", "asked"), list(itertools.product(("serve1", "serve2"), repeat=2)))
def test_pods_reach_pods_and_services_in_both_families(running: LabCluster, asking: str, asked: str) -> None:
    four, six = addresses(running, asked)
    assert six.startswith("fd88:") and four.startswith("10.88.")
    assert fetch(running, asking, url(six)) == asked
    assert fetch(running, asking, url(four)) == asked
    # A pod through its own Service: the bridge must hand the packet back to where it came from. (Its bare name is not
    # the Service: the kubelet writes that into the pod's hosts file.)
    # Not at once: where the API server was away a moment ago, clients come back to it in their own time.
    for name in (f"{asked}.{NAMESPACE}", f"{asked}.{NAMESPACE}.svc.k8s.internal"):
        target = f"http://{name}/"
        running.eventually(target, lambda target=target: fetch(running, asking, target) == asked)  # type: ignore[misc]


@pytest.mark.parametrize("node", NODES)
def test_machines_reach_services_and_node_ports_of_every_node(running: LabCluster, node: str) -> None:
    for index in (1, 2):
        cluster_ip = running.get("-n", NAMESPACE, "service", f"serve{index}")["spec"]["clusterIP"]
        targets = [url(cluster_ip, 80), *(url(f"10.88.{entry}.1", 30080 + index) for entry in (1, 2))]
        said = [running.operator.say(node, "curl", "--silent", "--max-time", "5", target) for target in targets]
        assert said == [f"serve{index}"] * 3


@pytest.mark.parametrize("asking", ["serve1", "serve2"])
def test_pods_reach_the_api_through_its_service_and_verify_it(running: LabCluster, asking: str) -> None:
    token = running.inside(NAMESPACE, asking, "cat", f"{ACCOUNT}/token").stdout
    trusted = running.inside(NAMESPACE, asking, "cat", f"{ACCOUNT}/ca.crt").stdout
    assert trusted.strip() == (running.operator.workspace.keys_dir / "apiserver.crt").read_text().strip()
    command = ["wget", "--no-check-certificate", "-q", "-T", "5", "-O", "-"]
    named = running.inside(NAMESPACE, asking, *command, "--header", f"Authorization: Bearer {token}", API)
    assert json.loads(named.stdout)["gitVersion"].startswith(f"v{kubernetes.MINOR}.")
    assert "401" in running.inside(NAMESPACE, asking, *command, API).stderr


@pytest.mark.parametrize("asking", ["serve1", "serve2"])
def test_names_of_nodes_and_the_api_are_known_in_pods(running: LabCluster, asking: str) -> None:
    said = running.inside(NAMESPACE, asking, "nslookup", "node2.k8s.internal").stdout
    assert "fd88:2::1" in said and "10.88.2.1" in said
    assert "10.88.0.1" in running.inside(NAMESPACE, asking, "nslookup", "kubernetes.default.svc.k8s.internal").stdout
    missing = running.inside(NAMESPACE, asking, "nslookup", "nosuch.k8s.internal")
    assert missing.returncode != 0 and "NXDOMAIN" in missing.stdout + missing.stderr


@pytest.mark.parametrize("name", ["serve1", "serve2"])
def test_logs_exec_and_port_forward(running: LabCluster, name: str) -> None:
    assert running.kubectl("-n", NAMESPACE, "logs", name) == "serving\n"
    assert running.inside(NAMESPACE, name, "sh", "-c", "exit 7").returncode == 7
    script = (
        "exec 3< <(kubectl -n $0 port-forward pod/$1 :8080); read -r _ _ at _ <&3; curl -s -m 5 http://$at/; kill $!"
    )
    answer = running.machine("node1").check(
        "env", "KUBECONFIG=/run/kubeconfig-root", "timeout", "30", "bash", "-c", script, NAMESPACE, name
    )
    assert answer.strip() == name


def test_a_guaranteed_pod_and_one_in_the_machines_network(running: LabCluster) -> None:
    guaranteed, host = pod("guaranteed", "node1"), pod("host", "node2", hostNetwork=True)
    running.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
    limits = {"cpu": "20m", "memory": "32Mi"}
    guaranteed["spec"]["containers"][0]["resources"] = {"requests": limits, "limits": limits}
    running.apply(*in_namespace(guaranteed, host))
    await_ready(running, "guaranteed", "host")
    found = running.get("-n", NAMESPACE, "pod", "guaranteed")
    assert found["status"]["qosClass"] == "Guaranteed"
    assert addresses(running, "host") == ["10.88.2.1", "fd88:2::1"]
