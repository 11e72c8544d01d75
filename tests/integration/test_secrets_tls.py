"""The pinned certificates in the eyes of OpenSSL and of a TLS client: exactly this one is accepted, no other.

Also with ``X509_STRICT``, which Python 3.13 sets by default; and a pinned leaf can't vouch for another certificate.
"""

import datetime
import shutil
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from smallkube.secrets import certificates
from smallkube.secrets.policy import Certificate

NOW = datetime.datetime.now(datetime.UTC)
HOSTNAME_MISMATCH, SELF_SIGNED = 62, 18
"""Verification results of OpenSSL: X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT."""
API = Certificate("apiserver.crt", "kube-apiserver", "serverAuth", ("api.k8s.internal",), ("10.88.0.1", "fd88:1::1"))
CLIENT = Certificate("kubelet-client.crt", "kube-apiserver-kubelet-client", "clientAuth")


class Pair:
    """A key and its certificate as files."""

    def __init__(self, folder: Path, wanted: Certificate) -> None:
        self.key_pem = certificates.new_key()
        self.certificate, self.key = folder / wanted.file, folder / f"{wanted.file}.key"
        self.certificate.write_bytes(certificates.issue(wanted, self.key_pem, NOW))
        self.key.write_bytes(self.key_pem)


def context(trusted: Path, purpose: ssl.Purpose) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cafile=str(trusted))
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory; raises ssl.SSLError of whichever side refuses."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client_side, server_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    client_side.cipher()


def serve(pair: Pair, clients: Path | None = None) -> ssl.SSLContext:
    made = context(clients, ssl.Purpose.CLIENT_AUTH) if clients else ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pair.certificate, pair.key)
    return made


@pytest.mark.parametrize("name", ["api.k8s.internal", "10.88.0.1", "fd88:1::1"])
def test_the_pinned_certificate_is_valid_for_each_of_its_names(tmp_path: Path, name: str) -> None:
    pair = Pair(tmp_path, API)
    handshake(serve(pair), context(pair.certificate, ssl.Purpose.SERVER_AUTH), name)


def test_another_name_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path, API)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(serve(pair), context(pair.certificate, ssl.Purpose.SERVER_AUTH), "evil.k8s.internal")
    assert caught.value.verify_code == HOSTNAME_MISMATCH


def test_another_certificate_with_the_same_names_is_refused(tmp_path: Path) -> None:
    pinned, other = Pair(tmp_path, API), Pair(tmp_path, replace(API, file="other.crt"))
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(serve(other), context(pinned.certificate, ssl.Purpose.SERVER_AUTH), "api.k8s.internal")
    assert caught.value.verify_code == SELF_SIGNED


def test_the_pinned_leaf_can_not_vouch_for_another(tmp_path: Path) -> None:
    pinned, child = Pair(tmp_path, API), Pair(tmp_path, replace(API, file="child.crt", common_name="child"))
    issuer = x509.load_pem_x509_certificate(pinned.certificate.read_bytes())
    leaf = x509.load_pem_x509_certificate(child.certificate.read_bytes())
    signer = load_pem_private_key(pinned.key_pem, None)
    builder = x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(issuer.subject)
    builder = builder.public_key(leaf.public_key()).serial_number(7)
    builder = builder.not_valid_before(leaf.not_valid_before_utc).not_valid_after(leaf.not_valid_after_utc)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    signed = builder.add_extension(names, critical=False).sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    child.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(serve(child), context(pinned.certificate, ssl.Purpose.SERVER_AUTH), "api.k8s.internal")


def test_client_certificate_of_the_api_server(tmp_path: Path) -> None:
    api, client = Pair(tmp_path, API), Pair(tmp_path, CLIENT)
    asking = context(api.certificate, ssl.Purpose.SERVER_AUTH)
    asking.load_cert_chain(client.certificate, client.key)
    handshake(serve(api, client.certificate), asking, "api.k8s.internal")
    stranger = Pair(tmp_path, replace(CLIENT, file="stranger.crt"))
    asking.load_cert_chain(stranger.certificate, stranger.key)
    with pytest.raises(ssl.SSLError):
        handshake(serve(api, client.certificate), asking, "api.k8s.internal")


def test_a_serving_certificate_is_no_client_certificate(tmp_path: Path) -> None:
    api, kubelet = Pair(tmp_path, API), Pair(tmp_path, replace(API, file="kubelet.crt", common_name="kubelet-node2"))
    asking = context(api.certificate, ssl.Purpose.SERVER_AUTH)
    asking.load_cert_chain(kubelet.certificate, kubelet.key)
    with pytest.raises(ssl.SSLError):
        handshake(serve(api, kubelet.certificate), asking, "api.k8s.internal")


def test_openssl_agrees(make_cluster: Callable[..., Any], needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("openssl"), "openssl")
    cluster = make_cluster((1, 2))
    cluster.done("keys.generate")
    names = {
        "apiserver.crt": ("sslserver", ["-verify_hostname", "test-kube.example.com", "-verify_ip", "10.88.0.1"]),
        "front-proxy-client.crt": ("sslclient", []),
        "kubelet-client.crt": ("sslclient", []),
        "kubelet_node1.crt": ("sslserver", ["-verify_hostname", "node1.k8s.internal", "-verify_ip", "fd88:1::1"]),
        "kubelet_node2.crt": ("sslserver", ["-verify_hostname", "node2.k8s.internal", "-verify_ip", "10.88.2.1"]),
        **{
            f"{user}_{node}.crt": ("sslclient", [])
            for user in ("node", "coredns", "kube-proxy")
            for node in ("node1", "node2")
        },
    }
    assert {path.name for path in cluster.keys.glob("*.crt")} == set(names)
    for name, (purpose, checks) in names.items():
        path = str(cluster.keys / name)
        argv = ["openssl", "verify", "-x509_strict", "-purpose", purpose, *checks, "-CAfile", path, path]
        run = subprocess.run(argv, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        shown = subprocess.run(["openssl", "x509", "-noout", "-text", "-in", path], capture_output=True, text=True)
        assert "CA:FALSE" in shown.stdout and "X509v3 Key Usage" not in shown.stdout
        assert "prime256v1" in shown.stdout
