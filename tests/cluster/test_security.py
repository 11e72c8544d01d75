"""Proves with real requests that a node's rights end at itself, that nobody comes in without a token, and that both
sides of each connection are checked: a swapped certificate is refused.
"""

import base64
import json
from collections.abc import Iterator
from functools import partial

import pytest

from tests.cluster.conftest import LabCluster, pod
from tests.cluster.identity import Identity

NAMESPACE = "test-security"
FILES = """
config=$(tr '\\0' '\\n' </proc/$(pidof kubelet)/cmdline | sed -n 's/^--config=//p')
crt=$(readlink -f "$(jq -r .tlsCertFile "$config")") key=$(readlink -f "$(jq -r .tlsPrivateKeyFile "$config")")
"""
OTHER = f"""
set -e
{FILES}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -keyout /run/other.key \\
  -out /run/other.crt -subj /CN=kubelet-node2 -addext subjectAltName=DNS:node2.k8s.internal 2>/dev/null
mount --bind /run/other.crt "$crt"
mount --bind /run/other.key "$key"
systemctl restart kubelet
"""
OWN = f"""
{FILES}
umount "$crt" "$key"
rm -f /run/other.crt /run/other.key
systemctl restart kubelet
"""
"""A kubelet with the right names but another key, and back."""
API_FILES = """
crt=$(tr '\\0' '\\n' </proc/$(pidof kube-apiserver)/cmdline | sed -n 's/^--tls-cert-file=//p')
crt=$(readlink -f "$crt") key=$(readlink -f /run/agenix/apiserver.key)
"""
OTHER_API = f"""
set -e
{API_FILES}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -keyout /run/other.key \\
  -out /run/other.crt -subj /CN=kube-apiserver -addext subjectAltName=IP:fd88:1::1,DNS:api.k8s.internal 2>/dev/null
printf '%s\\n' "$crt" "$key" >/run/other.mounts
mount --bind /run/other.crt "$crt"
mount --bind /run/other.key "$key"
systemctl restart --no-block kube-apiserver
"""
OWN_API = """
while read -r file; do umount "$file"; done </run/other.mounts
rm -f /run/other.crt /run/other.key /run/other.mounts
systemctl restart kube-apiserver
systemctl start kube-activation kube-scheduler kube-controller-manager
"""
"""The same of the API server, which does not count as started before root's own kubectl is answered."""
KUBECTL = "/run/current-system/sw/bin/kubectl"


def as_node(cluster: LabCluster, node: str, *words: str, stdin: str = "") -> str:
    """What a node gets with its kubelet's identity, errors included."""
    return Identity.of(cluster, "node", node).kubectl(cluster, *words, stdin=stdin)


def test_a_node_reads_the_secrets_of_its_own_pods_only(cluster: LabCluster) -> None:
    with cluster.namespace(NAMESPACE):
        for name in ("mine", "other"):
            cluster.kubectl("-n", NAMESPACE, "create", "secret", "generic", name, "--from-literal=a=b")
            cluster.kubectl("-n", NAMESPACE, "create", "configmap", name, "--from-literal=a=b")
        volumes = [
            {"name": "s", "secret": {"secretName": "mine"}},
            {"name": "c", "configMap": {"name": "mine"}},
        ]
        made = pod("user", "node2", volumes=volumes)
        made["metadata"]["namespace"] = NAMESPACE
        cluster.apply(made)
        for kind in ("secret", "configmap"):
            read = ("-n", NAMESPACE, "get", kind)
            await_own(cluster, *read)
            assert "orbidden" in as_node(cluster, "node2", *read, "other")
            assert "orbidden" in as_node(cluster, "node2", *read)
        assert "orbidden" in as_node(cluster, "node1", "-n", NAMESPACE, "get", "secret", "mine")


def await_own(cluster: LabCluster, *read: str) -> None:
    cluster.eventually("its own", lambda: "/mine" in as_node(cluster, "node2", *read, "mine", "-o", "name"))


def test_a_node_changes_no_other_node(cluster: LabCluster) -> None:
    own, other = "node2.k8s.internal", "node1.k8s.internal"
    assert "labeled" in as_node(cluster, "node2", "label", "node", own, "test=1", "--overwrite")
    cluster.kubectl("label", "node", own, "test-")
    assert "only its own Node object" in as_node(cluster, "node2", "label", "node", other, "test=1")
    restricted = as_node(cluster, "node2", "label", "node", own, "node-restriction.kubernetes.io/x=1")
    assert "not allowed" in restricted
    assert "orbidden" in as_node(cluster, "node2", "delete", "node", other)


@pytest.fixture(scope="module")
def pods(cluster: LabCluster) -> Iterator[None]:
    """A pod on each node, called as the node is."""
    with cluster.namespace(f"{NAMESPACE}-pods") as namespace:
        for name in ("node1", "node2"):
            made = pod(name, name)
            made["metadata"]["namespace"] = namespace
            cluster.apply(made)
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s", seconds=70)
        yield


PODS = ("-n", f"{NAMESPACE}-pods")
OTHER_NODE = "node1.k8s.internal"


@pytest.mark.parametrize(
    "words",
    [
        ("patch", "node", OTHER_NODE, "--subresource=status", "--patch={}"),
        ("annotate", "lease", "-n", "kube-node-lease", OTHER_NODE, "x=y"),
        ("get", "pod", *PODS, "node1"),
        ("get", "pods", "--all-namespaces"),
        ("delete", "pod", *PODS, "node1"),
        ("create", "token", *PODS, "default"),
        ("get", "secrets", "--all-namespaces"),
        ("get", "configmaps", "--all-namespaces"),
        ("create", "clusterrolebinding", "x", "--clusterrole=cluster-admin", "--user=system:node:node2.k8s.internal"),
        ("get", "--raw", "/metrics"),
    ],
)  # fmt: skip
def test_what_is_of_another_node_is_forbidden(words: tuple[str, ...], cluster: LabCluster, pods: None) -> None:
    assert "orbidden" in as_node(cluster, "node2", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("get", "node", "node2.k8s.internal", "--output=name"), "node/node2.k8s.internal"),
        (("annotate", "lease", "-n", "kube-node-lease", "node2.k8s.internal", "x-"), "annotated"),
        (("get", "pods", *PODS, "--field-selector=spec.nodeName=node2.k8s.internal", "--output=name"), "pod/node2"),
    ],
)
def test_what_is_its_own_is_allowed(words: tuple[str, ...], said: str, cluster: LabCluster, pods: None) -> None:
    assert said in as_node(cluster, "node2", *words)


@pytest.mark.parametrize("path", ["/api", "/version", "/metrics", "/readyz", "/openid/v1/jwks"])
def test_a_request_without_a_token_is_refused(path: str, cluster: LabCluster) -> None:
    argv = ["curl", "-sk", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", f"https://[fd88:1::1]:6443{path}"]
    assert cluster.machine("node1").check(*argv) == "401"


@pytest.mark.parametrize("path", ["/metrics", "/pods", "/runningpods/", "/logs/"])
def test_a_kubelet_refuses_clients_without_credentials(path: str, cluster: LabCluster) -> None:
    argv = ["curl", "-sk", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", f"https://10.88.2.1:10250{path}"]
    assert cluster.machine("node1").check(*argv) == "401"


def test_a_client_refuses_another_certificate(cluster: LabCluster) -> None:
    text = cluster.operator.done("cluster.kubeconfig", "--via", "tunnel", "--out", "-")
    config = json.loads(text)
    machine = cluster.machine("node1")
    other = other_certificate(cluster)
    outcomes = []
    for certificate in (None, other):
        if certificate:
            encoded = base64.b64encode(certificate.encode()).decode()
            config["clusters"][0]["cluster"]["certificate-authority-data"] = encoded
        machine.execute(["sh", "-c", "umask 077; cat >/run/test-config"], stdin=json.dumps(config))
        done = machine.execute([KUBECTL, "--kubeconfig", "/run/test-config", "get", "--raw", "/readyz"], seconds=30)
        outcomes.append(done.stdout or done.stderr)
    machine.check("rm", "-f", "/run/test-config")
    assert outcomes[0] == "ok"
    assert "x509" in outcomes[1]


def other_certificate(cluster: LabCluster) -> str:
    """One for the same names, over another key."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null -days 1"
        " -subj /CN=kube-apiserver -addext subjectAltName=IP:fd88:1::1,DNS:api.k8s.internal 2>/dev/null"
    )
    return cluster.machine("node1").check("sh", "-c", command)


def served(cluster: LabCluster) -> str:
    """SHA-256 of the certificate that the API server shows, "" when there is none."""
    command = (
        "openssl s_client -connect '[fd88:1::1]:6443' </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256"
    )
    return cluster.machine("node1").execute(["sh", "-c", command]).stdout


def refusals(cluster: LabCluster, unit: str, since: str) -> str:
    """What a service of node2 has said of certificates."""
    argv = ["journalctl", "--no-pager", f"--unit={unit}", f"--since=@{since}", "--grep=x509: certificate"]
    return cluster.machine("node2").execute(argv).stdout


def test_clients_refuse_an_api_server_with_another_certificate(cluster: LabCluster) -> None:
    primary, own = cluster.machine("node1"), served(cluster)
    since = cluster.machine("node2").check("date", "+%s").strip()
    primary.check("sh", "-c", OTHER_API)
    try:
        cluster.eventually("the other certificate", lambda: served(cluster) not in ("", own))
        answer = cluster.ask("get", "--raw", "/readyz")
        assert answer.returncode != 0
        assert "x509: certificate" in answer.stderr
        for unit in ("kubelet", "kube-proxy", "coredns"):
            cluster.eventually(f"{unit} refuses", partial(refusals, cluster, unit, since))
    finally:
        primary.check("sh", "-c", OWN_API)
        cluster.eventually("its own certificate", lambda: served(cluster) == own)
        cluster.eventually("Ready", lambda: set(cluster.ready().values()) == {True})


def test_the_api_server_refuses_another_kubelet_certificate(cluster: LabCluster) -> None:
    with cluster.namespace(NAMESPACE):
        made = pod("there", "node2", "sh", "-c", "echo here; trap 'exit 0' TERM; sleep 86400 & wait")
        made["metadata"]["namespace"] = NAMESPACE
        cluster.apply(made)
        logs = ("-n", NAMESPACE, "logs", "there")
        cluster.eventually("logs", lambda: cluster.ask(*logs).stdout == "here\n")
        machine = cluster.machine("node2")
        machine.check("sh", "-c", OTHER)
        try:
            refused = cluster.ask(*logs)
            assert refused.returncode != 0
            assert "x509" in refused.stderr
        finally:
            machine.check("sh", "-c", OWN)
            cluster.eventually("Ready", lambda: all(cluster.ready().values()))
        cluster.eventually("logs", lambda: cluster.ask(*logs).stdout == "here\n")
