"""The certificates of people: leaves that the API server accepts because they are in its bundle, and for nothing else.

Such a certificate needs no issuer: Go's crypto/x509 takes a leaf that is itself among the roots as its own chain and
looks at no signature (Certificate.Verify: ``if opts.Roots.contains(c)``). So it is made for a public key alone, and
signed by a key that is discarded at once. CA:FALSE, so that the person's key can sign no other that would be accepted.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.secrets import certificates
from smallkube.secrets.people import Person

MAX_REQUEST = 64 * 1024
"""Bytes of a request; one with an RSA key of 4096 bits has 1,700."""
_SKEW = timedelta(days=1)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_RSA_BITS = (2048, 8192)

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
"""What a client of Go's TLS can have; with RSA of more than 8192 bits it refuses (crypto/tls, checkKeySize)."""


def request_key(pem: bytes, where: str) -> PublicKey:
    """The public key of a certificate request (PKCS #10 in PEM), whose owner has signed it with the private one.

    Nothing else of the request is taken. Raises UsageError that names ``where``.
    """
    if b"PRIVATE KEY" in pem:
        hint = "keep it; what belongs here is a request: openssl req -new -key FILE -subj /CN=NAME"
        raise UsageError("holds a private key, which must not be sent", where=where, hint=hint)
    try:
        if len(pem) > MAX_REQUEST:
            raise ValueError
        request = x509.load_pem_x509_csr(pem)
        signed, key = request.is_signature_valid, request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        hint = "expected: what `openssl req -new` prints, in PEM"
        raise UsageError("not a certificate request", where=where, hint=hint) from error
    if not signed:
        raise UsageError("its signature is not by its own key", where=where, hint="make the request again")
    return _usable(key, where)


def _usable(key: object, where: str) -> PublicKey:
    good = isinstance(key, ed25519.Ed25519PublicKey)
    good = good or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES))
    good = good or (isinstance(key, rsa.RSAPublicKey) and _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1])
    if not good:
        hint = "make one with `openssl ecparam -name prime256v1 -genkey -noout`"
        raise UsageError("its key is none of P-256, P-384, P-521, Ed25519, RSA from 2048 bits", where=where, hint=hint)
    return key  # type: ignore[return-value]


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo in DER), in hex, by which two people can compare it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def credential(certificate: x509.Certificate) -> str:
    """What the API server calls it in its audit log: X509SHA256= and the SHA-256 of the certificate (DER), in hex.

    Source: k8s.io/apiserver/pkg/authentication/request/x509 (1.34).
    """
    return f"X509SHA256={certificate.fingerprint(hashes.SHA256()).hex()}"


def issue(person: Person, key: PublicKey, now: datetime) -> bytes:
    """A certificate for ``person`` over a public key, in PEM; valid from a day ago (clocks differ)."""
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in person.groups]
    name = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, person.name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(
            name
        )  # a client shows a certificate only if the server names its issuer: the subjects in the bundle
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(person.ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def key_of(pem: bytes, where: str) -> PublicKey:
    """The public key of a person's certificate. Raises UsageError that names ``where``."""
    return _usable(certificates.load(pem, where).public_key(), where)


def belongs(pem: bytes, private: bytes, where: str) -> bool:
    """Whether a certificate is over this private key (PEM). Raises UsageError when that is none."""
    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("not a private key in PEM, or encrypted with a password", where=where) from error
    return key.public_key() == certificates.load(pem, where).public_key()


def faults(person: Person, pem: bytes | None) -> list[str]:
    """What is wrong with a person's certificate, in words; that it has expired is not."""
    if pem is None:
        return ["missing"]
    try:
        found = certificates.load(pem, person.certificate)
        names = [each.value for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        groups = [each.value for each in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        others = {each.oid for each in found.subject} - {NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME}
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = [*found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value]
        known = {x509.BasicConstraints.oid, x509.ExtendedKeyUsage.oid}
        strange = {each.oid for each in found.extensions} - known
    except (SmallkubeError, ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        return [error.message if isinstance(error, SmallkubeError) else "not a certificate of a person"]
    checks = (
        (names != [person.name] or bool(others), f"its name is not {person.name} alone"),
        (sorted(groups) != sorted(person.groups), "its groups are not those in users.json"),
        (found.not_valid_after_utc != person.ends, "it does not expire when users.json says"),
        (constraints.ca, "it is a CA"),
        (usages != [ExtendedKeyUsageOID.CLIENT_AUTH] or bool(strange), "its use is not clientAuth alone"),
    )
    return [words for wrong, words in checks if wrong]


def same_key(pems: Sequence[tuple[str, bytes]], key: PublicKey) -> str | None:
    """Whose certificate of ``pems`` (name, PEM) is over this key, if any is."""
    return next((name for name, pem in pems if certificates.load(pem, name).public_key() == key), None)
