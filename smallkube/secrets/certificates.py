"""Self-signed leaf certificates that the other side trusts by pinning exactly them, and the keys beneath.

No CA bit and no keyUsage, so that a stolen one can vouch for nothing else; Go (crypto/x509: a leaf that is itself
in the pool is its own chain) and OpenSSL 3, also with ``X509_STRICT``, take such a leaf as its own trust anchor.
"""

import datetime
import ipaddress
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smallkube.core.errors import SmallkubeError
from smallkube.secrets.policy import Certificate, Secret

LIFETIME = datetime.timedelta(days=3650)
WARNING = datetime.timedelta(days=60)
"""A certificate that expires within this time is a problem."""

_SKEW = datetime.timedelta(days=1)
_USAGES = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}


def new_key() -> bytes:
    """A new EC P-256 private key in PEM, SEC 1 form ("EC PRIVATE KEY").

    Not PKCS#8: where kube-apiserver takes the private key for the public one (``--service-account-key-file``),
    client-go's util/keyutil (``parseECPrivateKey``) knows elliptic keys in SEC 1 only.
    """
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def parse_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """The EC P-256 key in ``pem``; raises SmallkubeError that names ``where`` and quotes nothing of it."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SmallkubeError("not a private key in PEM", where=where) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SmallkubeError("not an EC P-256 private key", where=where)
    return key


def issue(wanted: Certificate, key_pem: bytes, now: datetime.datetime) -> bytes:
    """A certificate for ``wanted`` over the key, PEM; valid from a day ago (clocks differ) for ten years."""
    key = parse_key(key_pem, wanted.file)
    number = x509.random_serial_number()
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in wanted.groups]
    # OpenSSL looks an issuer up by its name and takes the first: of two that are trusted, each must have its own. Not
    # so the API server (Go), which sends the names of all its users' certificates in one message of at most 64 KiB.
    unique = [] if groups else [x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{number:x}")]
    name = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name), *unique])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[wanted.usage]]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in wanted.addresses]
    if names := [*(x509.DNSName(each) for each in wanted.names), *addresses]:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issue_all(keys: Mapping[Secret, bytes]) -> dict[str, bytes]:
    """The certificates of those of ``keys`` (secret → PEM) that have one, by file name; valid from now on."""
    now = datetime.datetime.now(datetime.UTC)
    return {row.certificate.file: issue(row.certificate, pem, now) for row, pem in keys.items() if row.certificate}


def load(pem: bytes, where: str) -> x509.Certificate:
    """The one certificate in ``pem``; raises SmallkubeError that names ``where``."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SmallkubeError("not a certificate in PEM", where=where) from error
    if len(certificates) != 1:
        raise SmallkubeError(f"{len(certificates)} certificates where one belongs", where=where)
    return certificates[0]


def belongs(certificate: x509.Certificate, key_pem: bytes, where: str) -> bool:
    """Whether the certificate is over this private key."""
    return certificate.public_key() == parse_key(key_pem, where).public_key()


def faults(certificate: x509.Certificate, wanted: Certificate, now: datetime.datetime) -> list[str]:
    """What is wrong with the certificate, in words: names, usage, signature, time; empty when nothing is."""
    common_names, groups = (
        [each.value for each in certificate.subject.get_attributes_for_oid(kind)]
        for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    )
    names = names_in(certificate)
    should = {*wanted.names, *(str(ipaddress.ip_address(address)) for address in wanted.addresses)}
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    found = (
        (common_names[:1] != [wanted.common_name], f"its common name is not {wanted.common_name}"),
        (sorted(groups) != sorted(wanted.groups), f"its organizations are not {', '.join(wanted.groups) or 'none'}"),
        (should - names, f"lacks {', '.join(sorted(should - names))}"),
        (names - should, f"has {', '.join(sorted(names - should))}, which the inventory no longer has"),
        (
            _extension(certificate, x509.ExtendedKeyUsage) != [_USAGES[wanted.usage]],
            f"its use is not {wanted.usage} alone",
        ),
        (not _self_signed(certificate), "not self-signed: pinning it would need its issuer"),
        (begins > now, f"valid only from {begins:%Y-%m-%d}"),
        (ends <= now, f"expired on {ends:%Y-%m-%d}"),
        (now < ends < now + WARNING, f"expires on {ends:%Y-%m-%d}"),
    )
    return [fault for wrong, fault in found if wrong]


def complaints(
    pem: bytes | None, wanted: Certificate, key_file: str, key_pem: bytes | None, now: datetime.datetime
) -> list[str]:
    """What is wrong with the certificate in keys/ (``pem``; None: there is none), in words.

    ``key_pem``: what ``key_file``, the private key it should be over, holds; None where that can't be read.
    """
    if pem is None:
        return ["missing"]
    try:
        certificate = load(pem, wanted.file)
    except SmallkubeError as error:
        return [error.message]
    strange = key_pem is not None and not belongs(certificate, key_pem, key_file)
    return [f"is not over the key in {key_file}"] * strange + faults(certificate, wanted, now)


def names_in(certificate: x509.Certificate) -> set[str]:
    """What it is for: DNS names, and addresses in their shortest form."""
    return {str(name.value) for name in _extension(certificate, x509.SubjectAlternativeName)}


def _extension(
    certificate: x509.Certificate, kind: type[x509.SubjectAlternativeName] | type[x509.ExtendedKeyUsage]
) -> list[Any]:
    """What it lists; nothing where there is no such extension."""
    try:
        return list(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return []


def _self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
