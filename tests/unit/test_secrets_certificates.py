"""Certificates: what they say, and that every deviation from what the inventory wants is found."""

import datetime
from dataclasses import replace

import pytest
from cryptography import x509

from smallkube.core.errors import SmallkubeError
from smallkube.secrets import certificates
from smallkube.secrets.policy import Certificate

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
WANTED = Certificate("apiserver.crt", "kube-apiserver", "serverAuth", ("a.example",), ("10.88.0.1", "fd88:1::1"))


def issued(wanted: Certificate = WANTED, now: datetime.datetime = NOW) -> x509.Certificate:
    return certificates.load(certificates.issue(wanted, certificates.new_key(), now), "x.crt")


def test_a_leaf_that_can_sign_nothing_for_ten_years() -> None:
    certificate = issued()
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc - NOW == datetime.timedelta(days=3650)
    assert certificates.faults(certificate, WANTED, NOW) == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (replace(WANTED, names=("a.example", "b.example")), "lacks b.example"),
        (replace(WANTED, addresses=("10.88.0.1",)), "has fd88:1::1, which the inventory no longer has"),
        (replace(WANTED, common_name="other"), "common name"),
        (replace(WANTED, usage="clientAuth"), "use is not clientAuth"),
    ],
)
def test_deviations_are_found(wanted: Certificate, said: str) -> None:
    assert any(said in fault for fault in certificates.faults(issued(), wanted, NOW))


@pytest.mark.parametrize(("days", "said"), [(3591, "expires on"), (3651, "expired on"), (-2, "valid only from")])
def test_time(days: int, said: str) -> None:
    when = NOW + datetime.timedelta(days=days)
    assert [fault.split(" 20")[0] for fault in certificates.faults(issued(), WANTED, when)] == [said]


def test_pairs() -> None:
    key, other = certificates.new_key(), certificates.new_key()
    certificate = certificates.load(certificates.issue(WANTED, key, NOW), "x.crt")
    assert certificates.belongs(certificate, key, "k")
    assert not certificates.belongs(certificate, other, "k")


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_garbage(pem: bytes) -> None:
    with pytest.raises(SmallkubeError, match=r"x\.crt: "):
        certificates.load(pem, "x.crt")
