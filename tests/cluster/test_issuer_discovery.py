"""Proves that a pod verifies tokens by what their issuer publishes, with its own account and nothing else."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.cluster.conftest import LabCluster, pod

NAMESPACE = "test-issuer"
FETCH = """
cd /var/run/secrets/kubernetes.io/serviceaccount
exec /host/lib/*/ld-linux-*.so.? --library-path "$(echo /host/lib/*-linux-gnu)" /host/bin/curl \
  --silent --show-error --fail --max-time 10 --cacert ca.crt --oauth2-bearer "$(cat token)" "$0"
"""
"""The machine's curl, because busybox's wget verifies no certificate; in all else the pod's own."""


@pytest.fixture(scope="module")
def pods(cluster: LabCluster) -> Iterator[LabCluster]:
    """A pod on each node, called as the node is."""
    with cluster.namespace(NAMESPACE, wait=False):
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
        for name in cluster.nodes:
            made = pod(name, name, volumes=[{"name": "usr", "hostPath": {"path": "/usr"}}])
            made["metadata"]["namespace"] = NAMESPACE
            made["spec"]["containers"][0]["volumeMounts"] = [{"name": "usr", "mountPath": "/host", "readOnly": True}]
            cluster.apply(made)
        cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s", seconds=70)
        yield cluster


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def verify(token: str, keys: list[dict[str, str]]) -> None:
    """RFC 7518, section 3.4; raises InvalidSignature."""
    head, _, rest = token.partition(".")
    body, _, signature = rest.partition(".")
    (key,) = [key for key in keys if key["kid"] == json.loads(decoded(head))["kid"]]
    x, y = (int.from_bytes(decoded(key[name])) for name in "xy")
    numbers = [int.from_bytes(decoded(signature)[part]) for part in (slice(32), slice(32, 64))]
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    public.verify(encode_dss_signature(*numbers), f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))


def fetched(cluster: LabCluster, name: str, url: str) -> dict[str, Any]:
    done = cluster.inside(NAMESPACE, name, "sh", "-c", FETCH, url)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["node1", "node2"])
def test_a_pod_verifies_a_token_by_its_issuer(pods: LabCluster, name: str) -> None:
    token = pods.kubectl("-n", NAMESPACE, "create", "token", "default", "--audience=another").strip()
    issuer = json.loads(decoded(token.split(".")[1]))["iss"]
    described = fetched(pods, name, f"{issuer}/.well-known/openid-configuration")
    assert described["issuer"] == issuer
    verify(token, fetched(pods, name, described["jwks_uri"])["keys"])


def test_the_machines_resolve_the_issuer_as_before(pods: LabCluster) -> None:
    host = pods.operator.workspace.inventory_file.read_text().partition("external_host: ")[2].split()
    name = host[0] if host else "test-kube.example.com"
    assert "10.88.1.1" in pods.inside(NAMESPACE, "node2", "nslookup", name).stdout
    assert pods.machine("node2").execute(["getent", "ahosts", name]).stdout == ""
