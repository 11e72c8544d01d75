"""Proves that the API server passes requests on to an aggregated one, which believes it by its certificate alone."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab.machine import Result
from tests.cluster.conftest import LabCluster

NAMESPACE = "test-aggregation"
GROUP = "aggregation.example.com"
HOST = "extension"
PORT = 10700
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = '{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}'
TRUSTED = ("-n", "kube-system", "configmap", "extension-apiserver-authentication")
MAKE = f"""
set -e
install -d -m 700 /run/test-aggregation
cd /run/test-aggregation
cat >proxies.crt
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -keyout key -out crt \\
  -subj /CN={HOST} -addext subjectAltName=DNS:{HOST}.{NAMESPACE}.svc 2>/dev/null
"""
SERVER = f"""
import http.server, json, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        subject = dict(pair for part in self.connection.getpeercert()["subject"] for pair in part)
        answer = {{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "{GROUP}/v1", "resources": [],
                  "proxy": subject["commonName"], "user": self.headers["X-Remote-User"],
                  "groups": self.headers.get_all("X-Remote-Group")}}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("crt", "key")
context.verify_mode = ssl.CERT_REQUIRED
context.load_verify_locations("proxies.crt")
server = http.server.ThreadingHTTPServer(("0.0.0.0", {PORT}), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""
START = ("systemd-run", "--unit=test-aggregation", "--working-directory=/run/test-aggregation", "python3", "-c", SERVER)


def objects(certificate: str) -> list[dict[str, Any]]:
    """A Service whose endpoint is the host of node2, and the API behind it."""
    named = {"name": HOST, "namespace": NAMESPACE}
    labels = {"kubernetes.io/service-name": HOST}
    ports = [{"port": 443, "targetPort": PORT}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**named, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.88.2.1"]}],
            "ports": [{"port": PORT, "name": ""}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": "v1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": named,
                "caBundle": base64.b64encode(certificate.encode()).decode(),
            },
        },
    ]


@pytest.fixture
def extension(cluster: LabCluster) -> Iterator[LabCluster]:
    """An aggregated API server on node2, which verifies its proxy by what the cluster says of it."""
    machine = cluster.machine("node2")
    proxies = cluster.get(*TRUSTED)["data"]["requestheader-client-ca-file"]
    with cluster.namespace(NAMESPACE, wait=False):
        try:
            assert machine.execute(["sh", "-c", MAKE], stdin=proxies).returncode == 0
            machine.check(*START)
            cluster.apply(*objects(machine.check("cat", "/run/test-aggregation/crt")))
            yield cluster
        finally:
            cluster.kubectl("delete", "apiservice", f"v1.{GROUP}", "--ignore-not-found")
            machine.execute(["systemctl", "stop", "test-aggregation"])
            machine.execute(["rm", "-rf", "/run/test-aggregation"])


def test_an_aggregated_api_gets_its_requests_and_the_user(extension: LabCluster) -> None:
    raw = ("get", "--raw", f"/apis/{GROUP}/v1")
    extension.eventually("the aggregated API", lambda: not extension.ask(*raw).returncode)
    answer = json.loads(extension.kubectl(*raw, "--as=jane", "--as-group=readers"))
    assert (answer["user"], answer["proxy"]) == ("jane", "front-proxy-client")
    assert set(answer["groups"]) == {"readers", "system:authenticated"}
    # Another certificate of the API server's is not let in.
    refused = curl(extension, "kubelet-client", f"https://10.88.2.1:{PORT}/apis")
    assert (refused.stdout, refused.returncode != 0) == ("", True)


def curl(cluster: LabCluster, name: str, *words: str) -> Result:
    """What the primary gets that shows a certificate of keys/."""
    shown = ("--cert", "/dev/stdin", "--key", f"/run/agenix/{name}.key")
    pem = (cluster.operator.workspace.keys_dir / f"{name}.crt").read_text()
    return cluster.machine("node1").execute(
        ["curl", "--insecure", "--silent", "--max-time", "5", *shown, *words], stdin=pem
    )


def whoami(cluster: LabCluster, name: str) -> dict[str, Any]:
    """What the API server takes somebody for that says "jane" and shows a certificate of keys/."""
    headers = ("--header", "X-Remote-User: jane", "--header", "Content-Type: application/json", "--data", REVIEW)
    found: dict[str, Any] = json.loads(curl(cluster, name, *headers, f"https://api.k8s.internal:6443{WHOAMI}").stdout)
    return found


def test_a_pinned_leaf_is_its_own_authority_for_go(cluster: LabCluster) -> None:
    """The API server verifies a proxy by the code that aggregated ones have (k8s.io/apiserver)."""
    assert whoami(cluster, "front-proxy-client")["status"]["userInfo"]["username"] == "jane"
    assert whoami(cluster, "kubelet-client")["code"] == 401


def test_only_certificates_in_keys_are_published(cluster: LabCluster) -> None:
    """The API server itself never takes one away that has been replaced; the add-ons' unit does."""
    own = (cluster.operator.workspace.keys_dir / "front-proxy-client.crt").read_text()
    stale = (cluster.operator.workspace.keys_dir / "kubelet-client.crt").read_text()
    patch = json.dumps({"data": {"requestheader-client-ca-file": stale + own}})
    cluster.kubectl("patch", *TRUSTED, f"--patch={patch}")
    cluster.machine("node1").check("systemctl", "restart", "kube-activation")

    def published() -> str:
        found = cluster.ask("get", *TRUSTED, "--output=jsonpath={.data.requestheader-client-ca-file}")
        return found.stdout

    cluster.eventually("the certificate in keys/ alone", lambda: published() == own)
