"""What is inside each kind of secret: making a new one, and telling whether a given one is right.

Every secret is text that ends with a line break, so that ``wg``, ``$(cat …)`` and ``read`` all take it.
"""

import base64
import re
import secrets
import string
from collections.abc import Iterable, Sequence

import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from smallkube.core.errors import SmallkubeError
from smallkube.secrets import certificates
from smallkube.secrets.policy import Kind

_TOKEN = re.compile(rb"[A-Za-z0-9]{32,256}\n?")
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
"""The name of an encryption key: it begins each encrypted value in etcd, up to a colon."""
_ALPHABET = string.ascii_letters + string.digits


def make(kind: Kind, encrypted_resources: Sequence[str]) -> bytes:
    """A new secret of this kind. ``encrypted_resources`` are those of an EncryptionConfiguration."""
    if kind is Kind.WIREGUARD:
        return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()) + b"\n"
    if kind is Kind.TOKEN:
        return ("".join(secrets.choice(_ALPHABET) for _ in range(64)) + "\n").encode()
    if kind is Kind.ENCRYPTION:
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        return encryption_configuration([("key1", key)], encrypted_resources)
    return certificates.new_key()


def wireguard_public(private: bytes, where: str) -> str:
    """What ``wg pubkey`` makes of ``private``; raises SmallkubeError that names ``where``."""
    key = X25519PrivateKey.from_private_bytes(_wireguard_bytes(private, where))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def validate(kind: Kind, plaintext: bytes, where: str) -> None:
    """Raise SmallkubeError that names ``where`` when this is not such a secret; quotes nothing of it."""
    if not plaintext.strip():
        raise SmallkubeError("is empty", where=where)
    if kind is Kind.WIREGUARD:
        _wireguard_bytes(plaintext, where)
    elif kind is Kind.TOKEN:
        if not _TOKEN.fullmatch(plaintext):
            raise SmallkubeError("a token is one line of 32 to 256 letters and digits", where=where)
    elif kind is Kind.ENCRYPTION:
        _validate_encryption(plaintext, where)
    else:
        certificates.parse_key(plaintext, where)
        if kind is Kind.SIGNING_KEY and not plaintext.startswith(b"-----BEGIN EC PRIVATE KEY-----\n"):
            hint = "make one with `openssl ecparam -name prime256v1 -genkey -noout`"
            raise SmallkubeError("the API server needs this key in SEC 1 form (EC PRIVATE KEY)", where=where, hint=hint)


def wireguard_key(text: bytes) -> bytes | None:
    """The key, private or public, that is in base64 in ``text``, as ``wg`` takes it; None when it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw if len(raw) == 32 and base64.b64encode(raw) == text else None


def _wireguard_bytes(private: bytes, where: str) -> bytes:
    if raw := wireguard_key(private.removesuffix(b"\n")):
        return raw
    raise SmallkubeError("not a WireGuard private key", where=where, hint="expected: what `wg genkey` prints")


def encryption_configuration(keys: Iterable[tuple[str, str]], resources: Sequence[str]) -> bytes:
    """The file (apiserver.config.k8s.io/v1) for ``keys`` (name, base64); what is not encrypted yet stays readable."""
    named = [{"name": name, "secret": secret} for name, secret in keys]
    providers = [{"secretbox": {"keys": named}}, {"identity": {}}]
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": list(resources), "providers": providers}],
    }
    return yaml.safe_dump(document, sort_keys=False).encode()


def _validate_encryption(plaintext: bytes, where: str) -> None:
    try:
        text = plaintext.decode()
        document = yaml.safe_load(text)
        parts = document["resources"]
        sound = document["kind"] == "EncryptionConfiguration" and bool(parts)
        sound = sound and all(part["resources"] and all(map(_provider_sound, part["providers"])) for part in parts)
        names = [name for name, _ in encryption_keys(plaintext)] if sound else []
        plain = all(isinstance(name, str) and _KEY_NAME.fullmatch(name) for name in names)
        plain = plain and not any(_is_indirect(token, text) for token in yaml.scan(text))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        sound = False  # The error would quote the secret: it must not become the cause that a debug traceback shows.
    if not sound:
        raise SmallkubeError(
            "not an EncryptionConfiguration with providers and secretbox keys of 32 bytes", where=where
        )
    if not plain:
        problem = "a key's name must have letters, digits, . _ - only, as text, and nothing be an alias or have a \\"
        raise SmallkubeError(problem, where=where)


def _is_indirect(token: yaml.Token, text: str) -> bool:
    """Whether it is not the value itself that is written: scripts on the machines don't evaluate that."""
    quoted = isinstance(token, yaml.ScalarToken) and token.style == '"'
    escaped = quoted and "\\" in text[token.start_mark.index : token.end_mark.index]
    return escaped or isinstance(token, yaml.AliasToken)


def _provider_sound(provider: dict[str, dict[str, list[dict[str, str]]]]) -> bool:
    keys = provider["secretbox"]["keys"] if "secretbox" in provider else []
    raws = [base64.b64decode(key["secret"], validate=True) for key in keys]
    names = [key["name"] for key in keys]
    return bool(provider) and all(len(raw) == 32 for raw in raws) and len(set(names)) == len(names)


def encrypted_resources(plaintext: bytes) -> list[str]:
    """The resources that a (valid) EncryptionConfiguration names."""
    return [str(name) for part in yaml.safe_load(plaintext)["resources"] for name in part["resources"]]


def encryption_keys(plaintext: bytes) -> list[tuple[str, str]]:
    """Name and base64 text of each key of a (valid) EncryptionConfiguration, those that encrypt first."""
    providers = [provider for part in yaml.safe_load(plaintext)["resources"] for provider in part["providers"]]
    kinds = [kind for provider in providers for kind in provider.values() if kind]
    named = [(key["name"], key["secret"]) for kind in kinds for key in kind.get("keys", ())]
    return list(dict.fromkeys(named))
