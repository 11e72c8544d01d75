"""The program that writes the bundle of accepted certificates, with real OpenSSL: what it takes and refuses."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.load import parse
from smallkube.inventory.models import Node
from smallkube.kube import identities
from smallkube.remote.fake import FakeHost, reply
from smallkube.secrets import certificates, policy
from smallkube.secrets.identities import document as identity_document
from smallkube.secrets.policy import Certificate

pytestmark = pytest.mark.integration

SCRIPT = REPOSITORY / "nix/modules/identities.sh"
MONITORED = "cluster: {name: test, monitoring: true}\nnodes: {node1: {peer_ip: 192.0.2.1}}\n"
USER, GROUP = "system:node:node2.k8s.internal", "system:nodes"


def run(folder: Path, *words: str, stdin: str = "", path: str = "") -> subprocess.CompletedProcess[str]:
    state = folder / "state"
    state.mkdir(exist_ok=True)
    argv = ["bash", "-euo", "pipefail", str(SCRIPT), *words]
    environment = {"PATH": f"{path}/usr/bin:/bin", "STATE_DIRECTORY": str(state)}
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, env=environment)


def leaf(user: str = USER, groups: tuple[str, ...] = (GROUP,)) -> str:
    wanted = Certificate("x.crt", user, "clientAuth", groups=groups)
    return certificates.issue(wanted, certificates.new_key(), datetime.now(UTC)).decode()


def document(*entries: tuple[str, str]) -> str:
    """Of pairs: what the line says of the leaf, and the leaf."""
    return "".join(f"# identity {words}\n{pem}" for words, pem in entries) + f"# end {len(entries)}\n"


NODE = f"node_node2.crt {USER} {GROUP}"


def bundle(folder: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((folder / "state/clients.crt").read_bytes())


def install(folder: Path, text: str, name: str = "document") -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(text)
    return run(folder, "install", str(folder / name))


def pinned(*pems: str) -> list[x509.Certificate]:
    return [x509.load_pem_x509_certificate(pem.encode()) for pem in pems]


def strange(
    *,
    ca: bool = False,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    signs: bool = False,
    common_names: tuple[str, ...] = (USER,),
) -> str:
    """A certificate such as no task of ours makes."""
    key = ec.generate_private_key(ec.SECP256R1())
    group = x509.NameAttribute(NameOID.ORGANIZATION_NAME, GROUP)
    name = x509.Name([group, *(x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if signs:
        others = "digital_signature content_commitment key_encipherment data_encipherment key_agreement crl_sign"
        usages = dict.fromkeys(f"{others} encipher_only decipher_only".split(), False)
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, **usages), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_the_bundle_has_exactly_the_leaves(tmp_path: Path) -> None:
    one, other = leaf(), leaf("anna", ("team:a", "team:b"))
    done = install(tmp_path, document((NODE, one), ("users/anna.crt anna team:b team:a", other)))
    assert done.returncode == 0, done.stderr
    assert bundle(tmp_path) == pinned(one, other)
    assert (tmp_path / "state/clients.crt").stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "state/clients.crt").is_symlink()
    host = FakeHost(
        Node(name="node1", index=1, peer_ip="192.0.2.1"), lambda _: reply((tmp_path / "state/clients.crt").read_text())
    )
    wanted = {identities.sha256(one.encode()): "node_node2.crt", identities.sha256(other.encode()): "users/anna.crt"}
    assert identities.pinned(host) == wanted


BAD: dict[str, tuple[Callable[[], str], str]] = {
    "forged user": (lambda: document((NODE, leaf("system:node:node1.k8s.internal"))), "not of the user"),
    "two users": (lambda: document((NODE, strange(common_names=(USER, "root")))), "not of the user"),
    "wrong group": (lambda: document((NODE, leaf(groups=("system:masters",)))), "not of the groups"),
    "one group more": (lambda: document((NODE, leaf(groups=(GROUP, "system:masters")))), "not of the groups"),
    "a CA": (lambda: document((NODE, strange(ca=True))), "not marked CA:FALSE"),
    "a server": (lambda: document((NODE, strange(usage=ExtendedKeyUsageOID.SERVER_AUTH))), "not for clientAuth"),
    "a signer": (lambda: document((NODE, strange(signs=True))), "may sign certificates"),
    "no PEM": (lambda: document((NODE, "x\n")), "not one certificate"),
    "damaged PEM": (lambda: document((NODE, leaf()[:200] + "\n-----END CERTIFICATE-----\n")), "not a certificate"),
    "two in one": (lambda: document((NODE, leaf() + leaf())), "not one certificate"),
    "empty": (lambda: "", "no end"),
    "none": (document, "no certificate"),
    "half written": (lambda: document((NODE, leaf()), (NODE, leaf()))[:900], "no end"),
    "one missing": (lambda: document((NODE, leaf())).replace("# end 1", "# end 2"), "1 certificates where 2 belong"),
    "lines after it": (lambda: document((NODE, leaf())) + "x\n", "lines after the end"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("way", ["install", "replace"])
def test_a_bad_document_is_refused_and_the_previous_stays(case: str, way: str, tmp_path: Path) -> None:
    good = leaf()
    assert install(tmp_path, document((NODE, good))).returncode == 0
    make, said = BAD[case]
    done = run(tmp_path, "replace", stdin=make()) if way == "replace" else install(tmp_path, make(), "next")
    assert done.returncode == 65
    assert said in done.stderr and "the previous certificates stay" in done.stderr
    assert bundle(tmp_path) == pinned(good)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"clients.crt", "lock", "prints", "source"}


def test_an_expired_leaf_keeps_no_other_out(tmp_path: Path) -> None:
    """The API server itself refuses who shows it."""
    wanted = Certificate("x.crt", USER, "clientAuth", groups=(GROUP,))
    expired = certificates.issue(wanted, certificates.new_key(), datetime.now(UTC) - timedelta(days=3651)).decode()
    good = leaf()
    assert install(tmp_path, document((NODE, expired), (NODE, good))).returncode == 0
    assert pinned(good)[0] in bundle(tmp_path)


def test_what_was_sent_outlives_a_restart_until_the_next_deploy(tmp_path: Path) -> None:
    deployed, sent = leaf(), leaf("anna", ())
    text = document((NODE, deployed))
    assert install(tmp_path, text).returncode == 0
    assert run(tmp_path, "replace", stdin=document((NODE, deployed), ("anna.crt anna", sent))).returncode == 0
    assert install(tmp_path, text).returncode == 0
    assert bundle(tmp_path) == pinned(deployed, sent)
    assert install(tmp_path, text, "next").returncode == 0
    assert bundle(tmp_path) == pinned(deployed)


def test_a_leaf_that_was_revoked_comes_back_by_no_rollback(tmp_path: Path) -> None:
    kept, revoked = leaf(), leaf()
    both = document((NODE, kept), (NODE, revoked))
    assert install(tmp_path, both).returncode == 0
    assert run(tmp_path, "replace", stdin=document((NODE, kept))).returncode == 0
    done = install(tmp_path, both, "next")
    assert done.returncode == 0 and "was removed at run time" in done.stderr
    assert bundle(tmp_path) == pinned(kept)
    assert run(tmp_path, "replace", stdin=both).returncode == 0
    assert bundle(tmp_path) == pinned(kept, revoked)


@pytest.mark.parametrize("words", [(), ("install",), ("replace", "x"), ("x", "y")])
def test_wrong_arguments_are_a_usage_error(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, *words)
    assert (done.returncode, done.stderr[:6]) == (64, "usage:")


def test_the_identity_of_monitoring_is_taken(tmp_path: Path) -> None:
    """It has no group."""
    inventory = parse(MONITORED, Path("inventory.yaml"))
    (tmp_path / "keys").mkdir()
    for row in policy.identities(inventory):
        assert row.certificate
        issued = certificates.issue(row.certificate, certificates.new_key(), datetime.now(UTC))
        (tmp_path / "keys" / row.certificate.file).write_bytes(issued)
    text = identity_document(inventory, tmp_path / "keys", ())
    assert "# identity monitoring.crt system:metrics-scraper\n" in text
    done = install(tmp_path, text)
    assert done.returncode == 0, done.stderr
    subjects = [each.subject.rfc4514_string() for each in bundle(tmp_path)]
    assert len(subjects) == 4 and [one for one in subjects if one.endswith(",CN=system:metrics-scraper")]


def test_the_names_of_254_nodes_fit_in_one_handshake(tmp_path: Path) -> None:
    nodes = "".join(f"  node{index}: {{peer_ip: 192.0.2.{index}}}\n" for index in range(1, 255))
    inventory = parse(f"cluster: {{name: test}}\nnodes:\n{nodes}", Path("inventory.yaml"))
    found = [row.certificate for row in policy.identities(inventory) if row.certificate]
    key = certificates.new_key()
    issued = [certificates.load(certificates.issue(each, key, datetime.now(UTC)), each.file) for each in found]
    names = [each.subject.public_bytes() for each in issued]
    assert len(names) == 762
    # crypto/tls: certificateRequestMsgTLS13, each with its length; the front proxy's comes with them.
    assert sum(2 + len(name) for name in names) < 60_000


def test_names_that_no_handshake_carries_are_refused(tmp_path: Path) -> None:
    user = "system:node:" + "n" * 52
    one = leaf(user)
    count = 65000 // (2 + len(pinned(one)[0].subject.public_bytes()))
    entry = f"node_node2.crt {user} {GROUP}"
    assert install(tmp_path, document(*[(entry, one)] * count), "fits").returncode == 0
    done = install(tmp_path, document(*[(entry, one)] * (count + 1)), "long")
    assert done.returncode == 65
    assert f"the names of {count + 1} certificates take 650" in done.stderr
    assert len(bundle(tmp_path)) == count


def test_a_leaf_in_force_is_not_verified_again(tmp_path: Path) -> None:
    first, second = leaf(), leaf()
    assert install(tmp_path, document((NODE, first))).returncode == 0
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/openssl").write_text(
        '#!/bin/sh\necho "$*" >>"$STATE_DIRECTORY/../asked"\nexec /usr/bin/openssl "$@"\n'
    )
    (tmp_path / "bin/openssl").chmod(0o755)
    for pems in ((first,), (first, second), (second,)):
        done = run(tmp_path, "replace", stdin=document(*((NODE, pem) for pem in pems)), path=f"{tmp_path}/bin:")
        assert done.returncode == 0
        assert bundle(tmp_path) == pinned(*pems)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sum(line.startswith("x509 -in") and "-subject" in line for line in asked) == 1
