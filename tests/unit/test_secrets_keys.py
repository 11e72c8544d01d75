"""Parsing of keys: SSH host keys strictly, master identities, what each kind of secret must look like."""

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.secrets import age, kinds
from smallkube.secrets.host_keys import parse_host_key
from smallkube.secrets.policy import Kind

PKCS8 = load_pem_private_key(kinds.make(Kind.SIGNING_KEY, []), None).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
"""A sound key, in the form that kube-apiserver can't take the public key from."""

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr"


@pytest.mark.parametrize(
    "text",
    [
        *(f"ssh-ed25519 {KEY}{end}" for end in ("", " root@node1 x\n", " x\r\n", " \u2028 é\n")),
        f"192.0.2.1 ssh-ed25519 {KEY}\n",
        f"# 192.0.2.1:22 SSH-2.0-OpenSSH_9.2p1\r\n192.0.2.1 ssh-ed25519 {KEY}\r\n",
        f"# a:22 SSH-2.0-x\na ssh-rsa AAAAB3==\n[a]:22 ssh-ed25519 {KEY}\n# a:22\na ecdsa-sha2-nistp256 AAAAE2\n",
        f"|1|salt=|hash= ssh-ed25519 {KEY}\nnode1,192.0.2.1 ssh-ed25519 {KEY}\n",
    ],
)
def test_host_key_with_and_without_comment(text: str) -> None:
    key = parse_host_key(text, "node1.pub")
    assert str(key) == f"ssh-ed25519 {KEY}"
    assert key.fingerprint.startswith("SHA256:") and len(key.fingerprint) == 50
    wire = base64.b64decode(key.fingerprint.removeprefix("SHA256:") + "=")
    assert key.tag == base64.b64encode(wire[:4]).decode().rstrip("=")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not an SSH public key"),
        (f"a ssh-ed25519 {KEY}\nb ssh-ed25519 {KEY[:-1]}q\n", "2 keys .*; leave the line of this machine"),
        (f"ssh-ed25519 {KEY}\nConnection refused by 192.0.2.1\n", "not an SSH public key"),
        (f"@revoked a ssh-ed25519 {KEY}", "known_hosts with @revoked; expected: ssh-ed25519 AAAA"),
        (f"@cert-authority a ssh-ed25519 {KEY}", "known_hosts with @cert-authority"),
        ("# a:22 SSH-2.0-OpenSSH\n", "not an SSH public key"),
        ("a ssh-rsa AAAA\na ecdsa-sha2-nistp256 AAAA", "another type"),
        ("ssh-rsa AAAA", "another type"),
        (f"sk-ssh-ed25519@openssh.com {KEY}", "another type"),
        ("ssh-ed25519 ***", "not base64"),
        (f"ssh-ed25519 {KEY[:-4]}", "damaged"),
        (f"ssh-ed25519 {KEY}AAAA", "damaged"),
        ("-----BEGIN CERTIFICATE-----", "not an SSH public key"),
    ],
)
def test_refused_host_keys(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_host_key(text, "keys/hosts/node1.pub")
    assert str(caught.value).startswith("keys/hosts/node1.pub: ")


@given(st.text(max_size=200))
def test_host_key_garbage_never_crashes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_host_key(text, "x")


def test_a_master_file_with_an_older_identity_round_trips() -> None:
    (new, new_recipient), (old, old_recipient) = age.new_identity(), age.new_identity()
    master = age.parse_master(f"\n{new}\n# the one before\n{old}", "keys/master_key")
    assert master.recipients == (new_recipient, old_recipient)
    data = age.encrypt(b"x", [old_recipient])
    assert age.decrypt(data, master, "f") == b"x"
    with pytest.raises(age.NotForMaster):
        age.decrypt(data, master.only(new_recipient), "f")


def test_a_bad_identity_is_named_by_its_line_and_never_quoted() -> None:
    text, _ = age.new_identity()
    with pytest.raises(UsageError) as caught:
        age.parse_master(text.replace("KEY-1", "KEY-2"), "keys/master_key")
    assert "keys/master_key:2" in str(caught.value)
    assert "KEY-2" not in str(caught.value)
    with pytest.raises(UsageError, match="no age identity"):
        age.parse_master("# nothing\n", "keys/master_key")


def test_damage_and_a_wrong_key_are_distinguished() -> None:
    (text, recipient), (other, _) = age.new_identity(), age.new_identity()
    data = age.encrypt(b"x", [recipient])
    with pytest.raises(age.NotForMaster):
        age.decrypt(data, age.parse_master(other, "m"), "f")
    with pytest.raises(SmallkubeError, match="verification"):
        age.decrypt(data[:-1] + bytes([data[-1] ^ 1]), age.parse_master(text, "m"), "f")


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_made_is_valid_and_every_time_another(kind: Kind) -> None:
    made = [kinds.make(kind, ["secrets"]) for _ in range(3)]
    assert len(set(made)) == 3
    for one in made:
        kinds.validate(kind, one, "x")
        assert one.endswith(b"\n")


def test_tokens_are_64_letters_and_digits() -> None:
    token = kinds.make(Kind.TOKEN, [])
    assert len(token) == 65 and token[:-1].isalnum() and token.isascii()


ENCRYPTION = b"""kind: EncryptionConfiguration
resources:
- resources: [a]
  providers: [{secretbox: {keys: [{name: %s, secret: QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=}]}}]
"""
UNREADABLE = [b"1", b"'a:b'", b"my key", b"no", b"", b'"\\x41"', b"a, x: &b c, y: *b", b"a" * 41, "é".encode()]
LONG_KEY = kinds.make(Kind.ENCRYPTION, ["secrets"]).replace(b"secret: ", b"secret: AAAA")


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (Kind.TOKEN, b"short\n"),
        (Kind.TOKEN, b"a" * 63 + b",\n"),
        (Kind.TOKEN, b"a" * 64 + b"\n" + b"b" * 64),
        (Kind.WIREGUARD, b"AAAA\n"),
        (Kind.WIREGUARD, b"not base64\n"),
        (Kind.ENCRYPTION, b"a: [\n"),
        (Kind.ENCRYPTION, b"kind: EncryptionConfiguration\nresources: []\n"),
        pytest.param(Kind.ENCRYPTION, LONG_KEY, id="encryption key too long"),
        *(pytest.param(Kind.ENCRYPTION, ENCRYPTION % text, id=f"encryption key {text!r}") for text in UNREADABLE),
        (Kind.SERVING_KEY, b"-----BEGIN PRIVATE KEY-----\n"),
        (Kind.SIGNING_KEY, b"x"),
        pytest.param(Kind.SIGNING_KEY, PKCS8, id="PKCS 8"),
        *((kind, b"\n") for kind in Kind),
    ],
)
def test_invalid_content_is_refused_without_being_quoted(kind: Kind, bad: bytes) -> None:
    with pytest.raises(SmallkubeError) as caught:
        kinds.validate(kind, bad, "the secret")
    assert bad.strip().decode() not in str(caught.value) or not bad.strip()


@given(st.binary(max_size=300))
def test_validation_never_crashes(data: bytes) -> None:
    for kind in Kind:
        try:
            kinds.validate(kind, data, "x")
        except SmallkubeError:
            continue


def test_encrypted_resources_are_those_asked_for() -> None:
    made = kinds.make(Kind.ENCRYPTION, ["secrets", "configmaps"])
    assert kinds.encrypted_resources(made) == ["secrets", "configmaps"]


def test_keys_of_every_provider_are_known() -> None:
    others = b"[{identity: }, {aescbc: {keys: [{name: b, secret: QUFB}]}}, {secretbox"
    text = ENCRYPTION.replace(b"[{secretbox", others) % b"a"
    kinds.validate(Kind.ENCRYPTION, text, "x")
    assert [name for name, _ in kinds.encryption_keys(text)] == ["b", "a"]
