"""People's keys as real programs make and take them: requests of OpenSSL, recipients of age, kubeconfigs of kubectl."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallkube.core.errors import UsageError
from smallkube.core.workspace import REPOSITORY
from smallkube.operations import users
from smallkube.operations.users import Wanted
from smallkube.secrets import client_certificates, identities, people
from smallkube.secrets.people import Person

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)
ALICE = Person("alice", ("dev", "a.b:c"), "", "", people.stamp(NOW), people.stamp(NOW + timedelta(days=1)))
GOOD = {
    "P-256": "ec -pkeyopt ec_paramgen_curve:P-256",
    "P-384": "ec -pkeyopt ec_paramgen_curve:P-384",
    "P-521": "ec -pkeyopt ec_paramgen_curve:P-521",
    "Ed25519": "ed25519",
    "RSA": "rsa:2048",
}
"""Kind of key → what OpenSSL is asked for."""
BAD = {
    "secp256k1": "ec -pkeyopt ec_paramgen_curve:secp256k1",
    "short": "rsa:1024",
    "Ed448": "ed448",
}


def openssl(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=stdin, capture_output=True, check=True).stdout


def request(folder: Path, kind: str, *more: str) -> bytes:
    words = ("-newkey", *kind.split(), "-nodes", "-keyout", str(folder / "own.key"))
    return openssl("req", "-new", *words, "-subj", "/O=system:masters/CN=root", *more)


@pytest.mark.parametrize("kind", GOOD)
def test_requests_of_openssl_with_keys_that_clients_can_use(kind: str, tmp_path: Path) -> None:
    asked = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "subjectAltName=DNS:api.k8s.internal")
    key = client_certificates.request_key(request(tmp_path, GOOD[kind], *asked), "--csr")
    pem = client_certificates.issue(ALICE, key, NOW)
    assert client_certificates.belongs(pem, (tmp_path / "own.key").read_bytes(), "own.key")
    assert client_certificates.faults(ALICE, pem) == []
    text = openssl("x509", "-noout", "-text", stdin=pem).decode()
    assert "CA:FALSE" in text and "CA:TRUE" not in text and "api.k8s.internal" not in text and "masters" not in text
    public = openssl("pkey", "-in", str(tmp_path / "own.key"), "-pubout", "-outform", "der")
    digest = openssl("dgst", "-sha256", "-r", stdin=public).decode().split()[0]
    assert client_certificates.fingerprint(key) == digest


@pytest.mark.parametrize("kind", BAD)
def test_requests_with_other_keys_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--csr: (its key is none of|not a certificate request)"):
        client_certificates.request_key(request(tmp_path, BAD[kind]), "--csr")


def test_a_certificate_or_der_is_no_request(tmp_path: Path) -> None:
    der = request(tmp_path, GOOD["RSA"], "-outform", "der")
    whole = openssl("req", "-x509", "-key", str(tmp_path / "own.key"), "-subj", "/CN=alice")
    for data in (der, whole, b"-----BEGIN CERTIFICATE REQUEST-----\n"):
        with pytest.raises(UsageError, match="not a certificate request"):
            client_certificates.request_key(data, "--csr")
    with pytest.raises(UsageError, match="holds a private key"):
        client_certificates.request_key((tmp_path / "own.key").read_bytes(), "--csr")


def test_the_primary_takes_the_document_with_people(ready: Any, tmp_path: Path) -> None:
    users.add(ready.cluster, Wanted("alice", groups=("dev", "a.b:c")), NOW)
    users.add(ready.cluster, Wanted("bob", request=request(tmp_path, GOOD["RSA"])), NOW)
    accepted = people.accepted(ready.workspace, NOW)
    text = identities.document(ready.inventory, ready.keys, accepted)
    argv = ["bash", "-euo", "pipefail", str(REPOSITORY / "nix/modules/identities.sh"), "replace"]
    environment = {"PATH": "/usr/bin:/bin", "STATE_DIRECTORY": str(tmp_path)}
    done = subprocess.run(argv, input=text, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "clients.crt").read_text().splitlines()
    assert "# users/alice.crt alice dev a.b:c" in lines and "# users/bob.crt bob" in lines
    assert ready.problems() == {}


@pytest.mark.parametrize("kind", ["age", "ssh"])
def test_the_recipient_opens_the_key_with_age(
    kind: str, ready: Any, tmp_path: Path, needs: Callable[[str, object, str], None]
) -> None:
    needs("integration", shutil.which("age"), "age")
    identity = tmp_path / "identity"
    if kind == "age":
        subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
        recipient = subprocess.check_output(["age-keygen", "-y", identity], text=True).strip()
    else:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", identity], check=True)
        recipient = identity.with_suffix(".pub").read_text().strip()
    users.add(ready.cluster, Wanted("carol", recipient=recipient), NOW)
    file = ready.keys / "users/carol.key.age"
    pem = subprocess.run(["age", "-d", "-i", identity, file], check=True, capture_output=True).stdout
    assert client_certificates.belongs((ready.keys / "users/carol.crt").read_bytes(), pem, "key")
    master = subprocess.run(["age", "-d", "-i", ready.workspace.master_key, file], capture_output=True, check=False)
    assert master.returncode != 0
    assert ready.problems() == {}


def test_a_new_master_reads_peoples_keys(ready: Any) -> None:
    users.add(ready.cluster, Wanted("alice"), NOW)
    ready.done("keys.rotate-master", "--yes")
    ready.done("keys.rotate-master", "--drop-old", "--yes")
    config = json.loads(ready.done("users.kubeconfig", "alice", "--out", "-"))
    assert config["users"][0]["user"].keys() == {"client-certificate-data", "client-key-data"}
    assert ready.problems() == {}


def kubectl(file: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(file), "HOME": str(file.parent)}
    return subprocess.run(["kubectl", *words], env=environment, check=True, capture_output=True, text=True).stdout


def test_kubectl_reads_what_was_merged(ready: Any, tmp_path: Path, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("kubectl"), "kubectl")
    file = tmp_path / "config"
    kubectl(file, "config", "set-cluster", "work", "--server=https://work:6443", "--insecure-skip-tls-verify")
    kubectl(file, "config", "set-credentials", "me", "--token=0123456")
    kubectl(file, "config", "set-context", "work", "--cluster=work", "--user=me", "--namespace=ns")
    kubectl(file, "config", "use-context", "work")
    work = yaml.safe_load(kubectl(file, "config", "view", "--raw", "--minify"))
    users.add(ready.cluster, Wanted("alice"), NOW)
    for words in (["users.kubeconfig", "alice"], ["cluster.kubeconfig", "--context", "prod"]):
        for _ in range(2):
            assert ready.done(*words, "--merge", KUBECONFIG=str(file)) == f"{file}\n"
    assert kubectl(file, "config", "get-contexts", "--output=name").split() == ["prod", "test-alice", "work"]
    assert yaml.safe_load(kubectl(file, "config", "view", "--raw", "--minify")) == work
    minified = yaml.safe_load(kubectl(file, "--context=test-alice", "config", "view", "--raw", "--minify"))
    assert minified["users"][0]["name"] == "test-alice"
    assert minified["clusters"][0]["cluster"]["server"] == "https://test-kube.example.com:6443"
    assert file.stat().st_mode & 0o7777 == 0o600


def test_a_file_that_is_no_kubeconfig_is_not_changed(ready: Any, tmp_path: Path) -> None:
    users.add(ready.cluster, Wanted("alice"), NOW)
    file = tmp_path / "config"
    for text in ("not: [a", "[]", "kind: Pod\n", "\0"):
        file.write_text(text)
        refused = ready.refused("users.kubeconfig", "alice", "--merge", "--out", str(file))
        assert "is no kubeconfig; nothing was changed" in refused
        assert file.read_text() == text
    link = tmp_path / "link"
    link.symlink_to(file)
    assert "is no regular file" in ready.refused("users.kubeconfig", "alice", "--merge", "--out", str(link))
    run = ready.inv("users.kubeconfig", "alice", "--merge", KUBECONFIG=f"{file}:{link}")
    assert run.returncode == 2 and "KUBECONFIG names several files" in run.stderr
