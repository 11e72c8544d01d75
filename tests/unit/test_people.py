"""Proves who may be a user, what users.json holds, and what a person's certificate says and may not say."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import parse
from smallkube.secrets import certificates, client_certificates, people, policy
from smallkube.secrets.people import Person

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
PEM = serialization.Encoding.PEM
ALICE = Person("alice", ("dev", "shop:ops"), "edit", "shop", people.stamp(NOW), people.stamp(NOW + timedelta(days=90)))
INVENTORY = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"


def write(workspace: Workspace, *users: Person) -> None:
    workspace.keys_dir.mkdir(exist_ok=True)
    workspace.users_file.write_bytes(people.render({each.name: each for each in users}))


def request(key: Any, *, signer: Any = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "system:masters")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(PEM)


def test_what_is_written_is_read_again(workspace: Workspace) -> None:
    assert people.read(workspace) == {}
    bob = replace(ALICE, name="bob", groups=(), role="", namespace="", removed=True)
    write(workspace, bob, ALICE)
    assert people.read(workspace) == {"alice": ALICE, "bob": bob}
    assert workspace.users_file.read_text().count("\n") == 6, "one line for each, for merges"


def test_whose_certificates_count(workspace: Workspace) -> None:
    write(workspace, ALICE, replace(ALICE, name="bob", removed=True))
    assert [each.name for each in people.accepted(workspace)] == ["alice"]
    assert people.accepted(workspace, NOW + timedelta(days=90)) == ()


@pytest.mark.parametrize(
    "name",
    ["", "Alice", "-a", "a-", "a" * 64, "a.b", "a b", "a/b", "../a", "a\n", "system:masters", "system", "root",
     "system-x", "kube-apiserver", "kube-apiserver-kubelet-client", "front-proxy-client", "kubelet-node1", "ä", "a:b"],
)  # fmt: skip
def test_a_name_that_no_user_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        people.require_valid(replace(ALICE, name=name))


def test_no_user_is_called_as_a_user_of_the_cluster() -> None:
    rows = policy.secrets_of(parse(INVENTORY, Path("inventory.yaml")))
    names = {row.user.name for row in rows if row.user} | {
        row.certificate.common_name for row in rows if row.certificate
    }
    assert len(names) > 5
    for name in names:
        with pytest.raises(UsageError):
            people.require_valid(replace(ALICE, name=name))


@pytest.mark.parametrize(
    "group",
    ["", "system:masters", "system", "system:", "System:masters", "a b", "a,b", "a" * 65, "-a", "a\0", "SYSTEM:x"],
)
def test_a_group_that_no_user_can_have(group: str) -> None:
    with pytest.raises(UsageError, match="no group"):
        people.require_valid(replace(ALICE, groups=(group,)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "system:masters"}, "no role"),
        ({"role": "Admin"}, "no role"),
        ({"namespace": "a/b"}, "namespace"),
        ({"role": ""}, "a namespace without a role"),
        ({"groups": ("a", "a")}, "twice"),
        ({"groups": tuple(f"g{n}" for n in range(21))}, "more than 20"),
        ({"expires": "tomorrow"}, "no time"),
        ({"expires": "2026-11-27T12:00:00"}, "no time"),
        ({"added": "2026-11-27T12:00:00+01:00"}, "no time"),
    ],
)
def test_other_values_that_are_not_valid(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        people.require_valid(replace(ALICE, **change))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"users": 1}', '{"users": [{}]}', '{"users": [{"name": "alice"}]}', "\0", "[" * 5000,
     json.dumps({"users": [{**asdict(ALICE), "more": 1}]}), json.dumps({"users": [{**asdict(ALICE), "groups": "a"}]}),
     json.dumps({"users": [{**asdict(ALICE), "removed": "no"}]}), json.dumps({"users": [asdict(ALICE)] * 2}),
     json.dumps({"users": [{**asdict(ALICE), "groups": ["system:masters"]}]}),
     json.dumps({"users": [{**asdict(ALICE), "name": "../../etc/x"}]})],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_name(text: str, workspace: Workspace) -> None:
    workspace.keys_dir.mkdir()
    workspace.users_file.write_text(text)
    with pytest.raises(UsageError, match=r"^keys/users\.json: "):
        people.read(workspace)


@pytest.mark.parametrize(
    ("days", "words"),
    [(-15, None), (-13.9, "expires on"), (-0.1, "expires on"), (0, "expired on"), (13.9, "expired on"), (14, None)],
)
def test_warnings_around_the_expiry(days: float, words: str | None, workspace: Workspace) -> None:
    write(workspace, ALICE)
    found = [*people.warnings(workspace, ALICE.ends + timedelta(days=days))]
    assert len(found) == (words is not None)
    assert all(words in each and "inv users.add alice --expires 90d" in each for each in found if words)


def test_a_certificate_says_what_users_json_does() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = client_certificates.issue(ALICE, key.public_key(), NOW)
    assert client_certificates.faults(ALICE, pem) == []
    found = certificates.load(pem, "a")
    assert found.subject.rfc4514_string() == "CN=alice,O=shop:ops,O=dev"
    # A client of Go shows a certificate only if the server names its issuer: the subjects of the bundle.
    assert found.issuer == found.subject
    with pytest.raises(x509.ExtensionNotFound):
        found.extensions.get_extension_for_class(x509.KeyUsage)
    assert (found.not_valid_before_utc, found.not_valid_after_utc) == (NOW - timedelta(days=1), ALICE.ends)
    assert client_certificates.credential(found) == f"X509SHA256={found.fingerprint(hashes.SHA256()).hex()}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "bob"}, "its name is not bob alone"),
        ({"groups": ("dev",)}, "its groups"),
        ({"groups": ()}, "its groups"),
        ({"expires": people.stamp(NOW + timedelta(days=91))}, "does not expire when"),
    ],
)
def test_a_certificate_that_differs_from_users_json(change: dict[str, Any], words: str) -> None:
    pem = client_certificates.issue(ALICE, ec.generate_private_key(ec.SECP256R1()).public_key(), NOW)
    (fault,) = client_certificates.faults(replace(ALICE, **change), pem)
    assert words in fault


def forged(*, ca: bool = False, usage: bool = True, **names: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    pairs = [(NameOID.ORGANIZATION_NAME, group) for group in ALICE.groups]
    pairs += [(getattr(NameOID, oid), value) for oid, value in names.items()]
    name = x509.Name([x509.NameAttribute(*pair) for pair in [*pairs, (NameOID.COMMON_NAME, "alice")]])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(ALICE.ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (None, "missing"),
        (b"", "not a certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a certificate"),
        (forged(ca=True), "it is a CA"),
        (forged(usage=False), "not a certificate of a person"),
        (forged(USER_ID="0"), "its name is not alice alone"),
        (forged() * 2, "2 certificates"),
    ],
)
def test_a_certificate_that_no_person_may_have(pem: bytes | None, words: str) -> None:
    assert words in ", ".join(client_certificates.faults(ALICE, pem))


@pytest.mark.parametrize(
    "make", [lambda: ec.generate_private_key(ec.SECP384R1()), lambda: rsa.generate_private_key(65537, 2048)]
)
def test_only_the_key_of_a_request_is_taken(make: Any) -> None:
    key = make()
    taken = client_certificates.request_key(request(key), "--csr")
    pem = client_certificates.issue(ALICE, taken, NOW)
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert client_certificates.belongs(pem, private, "key")
    assert client_certificates.faults(ALICE, pem) == []
    assert client_certificates.same_key([("bob", pem)], taken) == "bob"


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256K1()), rsa.generate_private_key(65537, 1024)])
def test_a_weak_or_unknown_key_is_refused(key: Any) -> None:
    with pytest.raises(UsageError, match=r"^--csr: its key is none of"):
        client_certificates.request_key(request(key), "--csr")


def test_a_request_is_signed_by_its_own_key() -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    der = x509.load_pem_x509_csr(request(key)).public_bytes(serialization.Encoding.DER)
    spki = [k.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            for k in (key, other)]  # fmt: skip
    swapped = der.replace(spki[0], spki[1])
    assert swapped != der
    pem = x509.load_der_x509_csr(swapped).public_bytes(PEM)
    with pytest.raises(UsageError, match="not by its own key"):
        client_certificates.request_key(pem, "--csr")


@pytest.mark.parametrize("data", [b"", b"\0" * 100,
                                  b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
                                  b"x" * 70000, forged()])  # fmt: skip
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="not a certificate request"):
        client_certificates.request_key(data, "--csr")


def test_a_private_key_in_place_of_a_request_is_refused() -> None:
    with pytest.raises(UsageError, match="holds a private key"):
        client_certificates.request_key(
            certificates.new_key() + request(ec.generate_private_key(ec.SECP256R1())), "--csr"
        )
