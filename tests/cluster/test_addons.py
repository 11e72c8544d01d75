"""Proves that the add-ons of the catalogue work when they are named in the inventory, and are deleted when not."""

from collections.abc import Iterator
from typing import Any

import pytest

from lab import addons
from smallkube.cli.bar import Bar
from smallkube.core.errors import SmallkubeError
from smallkube.inventory.fields import CATALOGUE
from tests.cluster.conftest import LabCluster, is_ready, pod
from tests.conftest import require

NAMESPACE = "test-addons"
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data", "namespace": NAMESPACE},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
}
POLICIES = "test-policies"
SERVE = ("sh", "-c", 'exec httpd -f -p "[::]:8080" -h /etc')
LABELLED = "apiservices,clusterroles,clusterrolebindings,rolebindings,storageclasses,namespaces"


def choose(cluster: LabCluster, names: tuple[str, ...]) -> None:
    """Name these add-ons in the inventory and deploy."""
    file = cluster.operator.workspace.inventory_file
    lines = [line for line in file.read_text().splitlines(True) if not line.startswith("  addons:")]
    at = lines.index("cluster:\n") + 1
    file.write_text("".join([*lines[:at], *([f"  addons: [{', '.join(names)}]\n"] if names else []), *lines[at:]]))
    cluster.operator.done("nix.render")
    cluster.operator.done("deploy", "--node", "node1")


@pytest.fixture(scope="module")
def chosen(cluster: LabCluster) -> Iterator[LabCluster]:
    """The cluster with every add-on of the catalogue."""
    try:
        with Bar() as bar:
            built = addons.PROGRAMS.ensure(cluster.operator.lab.places.cache, bar)
    except SmallkubeError as error:
        require("cluster", False, str(error))
    for machine in cluster.operator.lab.machines:
        addons.bring(machine, built)
    file = cluster.operator.workspace.inventory_file
    before = file.read_text()
    choose(cluster, CATALOGUE)
    try:
        yield cluster
    finally:
        if file.read_text() != before:
            choose(cluster, ())
        for machine in cluster.operator.lab.machines:
            machine.check(addons.QUEUE, "off")


def test_top_shows_the_use_of_nodes_and_pods(chosen: LabCluster) -> None:
    def measured(*words: str) -> list[str]:
        return [line.split()[0] for line in chosen.ask("top", *words, "--no-headers").stdout.splitlines()]

    expected = [f"{node}.k8s.internal" for node in chosen.nodes]
    chosen.eventually("kubectl top of every node", lambda: sorted(measured("node")) == expected)
    # The only pod there; its first measurements come later than those of the nodes.
    chosen.eventually("kubectl top of a pod", lambda: measured("pod", "--namespace=metrics-server"))


def test_metrics_server_is_verified_and_closed_to_nodes(chosen: LabCluster) -> None:
    spec = chosen.get("apiservice", "v1beta1.metrics.k8s.io")["spec"]
    assert spec["caBundle"] and "insecureSkipTLSVerify" not in spec
    url = "https://10.88.1.1:4443/livez"
    answer = ("curl", "--insecure", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url)
    chosen.eventually("metrics-server", lambda: chosen.machine("node1").execute(answer).stdout == "200")
    assert chosen.machine("node2").execute([*answer, "--max-time", "3"]).stdout == "000"


def test_a_claim_is_bound_and_its_data_outlives_the_pod(chosen: LabCluster) -> None:
    def run(name: str, command: str) -> None:
        chosen.apply(using_claim(name, command))
        phase = ("--namespace", NAMESPACE, "get", "pod", name, "--output=jsonpath={.status.phase}")
        chosen.eventually(f"{name} ended", lambda: chosen.ask(*phase).stdout == "Succeeded")
        chosen.kubectl("--namespace", NAMESPACE, "delete", "pod", name)

    volumes = ("ls", "/var/lib/local-path-provisioner")
    with chosen.namespace(NAMESPACE):
        chosen.apply(CLAIM)
        run("writer", "echo kept >/data/file")
        run("reader", "grep kept /data/file")
        assert f"_{NAMESPACE}_data" in chosen.operator.say("node2", *volumes)
        chosen.kubectl("--namespace", NAMESPACE, "delete", "persistentvolumeclaim", "data")
        chosen.eventually("no folder left", lambda: not chosen.operator.say("node2", *volumes))


def using_claim(name: str, command: str) -> dict[str, Any]:
    """A pod that the scheduler binds to node2: for one that has a nodeName no volume is made."""
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    made = pod(name, "node2", "sh", "-c", command, volumes=[volume], restartPolicy="Never")
    made["metadata"]["namespace"] = NAMESPACE
    del made["spec"]["nodeName"]
    made["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node2.k8s.internal"}
    made["spec"]["securityContext"] = {"runAsUser": 1000}
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return made


def policy(name: str, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy for the pods with this label ``app``."""
    selected = {"podSelector": {"matchLabels": {"app": name}}, **spec}
    metadata = {"name": name, "namespace": POLICIES}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": selected}


def test_a_policy_denies_all_but_what_it_allows(chosen: LabCluster) -> None:
    clients = {"friend": "node1", "stranger": "node1", "neighbour": "node2"}
    server = pod("server", "node2", *SERVE)
    probe = {"httpGet": {"port": 8080, "path": "/passwd"}, "periodSeconds": 1, "failureThreshold": 1}
    server["spec"]["containers"][0]["readinessProbe"] = probe
    made = [server, *(pod(name, node) for name, node in clients.items())]
    ports = {"selector": {"app": "server"}, "ports": [{"port": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"}, "spec": ports}
    for each in (*made, service):
        each["metadata"]["namespace"] = POLICIES
    with chosen.namespace(POLICIES):
        chosen.apply(*made, service)
        chosen.kubectl("-n", POLICIES, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=100s", seconds=110)
        pod_ips = chosen.get("-n", POLICIES, "pod", "server")["status"]["podIPs"]
        cluster_ip = chosen.get("-n", POLICIES, "service", "server")["spec"]["clusterIP"]
        hosts = [f"[{ip}]" if ":" in ip else ip for ip in (*(entry["ip"] for entry in pod_ips), cluster_ip)]
        assert len(hosts) == 3

        def reached(*names: str) -> list[set[str]]:
            """Of each of these pods, what it gets the file from."""
            script = "for host; do (wget -qT 2 -O /dev/null http://$host:8080/passwd && echo $host) & done; wait"
            return [{*chosen.inside(POLICIES, name, "sh", "-c", script, "-", *hosts).stdout.split()} for name in names]

        every: set[str] = {*hosts}
        chosen.eventually("no policy", lambda: reached(*clients) == [every, every, every])
        friends = [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]
        chosen.apply(policy("server", policyTypes=["Ingress"], ingress=friends))
        chosen.eventually("ingress denied", lambda: reached(*clients) == [every, set(), set()])
        chosen.apply(policy("friend", policyTypes=["Egress"]))
        chosen.eventually("egress denied", lambda: reached(*clients) == [set(), set(), set()])
        chosen.eventually("probes are let through", lambda: is_ready(chosen.get("-n", POLICIES, "pod", "server")))
        chosen.kubectl("-n", POLICIES, "delete", "networkpolicy", "--all")
        chosen.eventually("no policy any more", lambda: reached(*clients) == [every, every, every])


def test_what_is_not_named_any_more_is_deleted(chosen: LabCluster) -> None:
    labelled = ("get", LABELLED, "--all-namespaces", "--selector=smallkube/addon", "--output=name")
    assert len(chosen.kubectl(*labelled).splitlines()) > 5
    choose(chosen, ())
    chosen.eventually("nothing left", lambda: not chosen.kubectl(*labelled))
