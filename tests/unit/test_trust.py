"""Proves what a rotation of certificates does from each point at which it may stand."""

import base64
import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.load import parse
from smallkube.operations import certificates as certificate_rotation
from smallkube.operations import engine, issuer
from smallkube.operations.certificates import Stage
from smallkube.secrets import certificates, policy
from smallkube.secrets.transaction import Keys

INVENTORY = parse("cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}}\n", Path("inventory.yaml"))
ROWS = [row for row in policy.secrets_of(INVENTORY) if row.certificate]
API = next(row for row in ROWS if row.name == "apiserver.key")
NOW = datetime.now(UTC)


def keys(*more: str) -> Keys:
    """Every key and certificate, and ``more`` files."""
    names = [*more, *(row.file for row in policy.secrets_of(INVENTORY)), *policy.public_files(INVENTORY)]
    files = {name: b"" for name in names if name.endswith(".age")}
    return Keys(files, {name: b"" for name in names if name.endswith(".crt")})


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        ((), Stage.ONE),
        (("apiserver.key.new.age", "apiserver.new.crt"), Stage.TRUSTED),
        (("apiserver.key.old.age", "apiserver.old.crt"), Stage.SWITCHED),
        (("apiserver.key.old.age",), Stage.DEPLOY_PENDING),
        (("apiserver.key.new.age",), Stage.DEPLOY_PENDING),
    ],
)
def test_the_stage_follows_from_the_files(files: tuple[str, ...], stage: Stage) -> None:
    assert certificate_rotation.stage_of(API, keys(*files)) is stage
    assert certificate_rotation.under_way(INVENTORY, keys(*files)) == (() if stage is Stage.ONE else (API,))


def test_certificates_that_stand_at_different_steps_are_named() -> None:
    files = ("apiserver.key.new.age", "apiserver.new.crt", "kubelet-client.key.old.age")
    with pytest.raises(SmallkubeError, match=r"apiserver\.key: the new one is trusted.*kubelet-client\.key: one"):
        certificate_rotation.under_way(INVENTORY, keys(*files))


def test_staged_keys_and_certificates_have_their_own_names() -> None:
    """Those of servers: clients are verified by Go, which does not mind."""
    found = certificate_rotation.issued(ROWS)
    assert {row.name for row in found.new} == {f"{row.name}.new" for row in ROWS}
    assert "PRIVATE" not in repr(found)
    subjects, servers = set(), [row for row in ROWS if row.certificate and not row.certificate.groups]
    for row, key in found.new.items():
        assert row.certificate
        pem = found.public[row.certificate.file]
        assert pem and certificates.complaints(pem, row.certificate, row.file, key, NOW) == []
        subjects.add(certificates.load(pem, "c").subject)
    again = [pem for pem in certificate_rotation.issued(ROWS).public.values() if pem]
    assert len(subjects | {certificates.load(pem, "c").subject for pem in again}) == len(ROWS) + len(servers)


def test_a_staged_key_is_delivered_nowhere() -> None:
    beside = {name for row in ROWS for each in row.staged for name in (each.file,)}
    given = policy.secrets_by_node(INVENTORY, {*keys().files, *beside, "issuer.key.old.age"})["node1"]
    assert {row.file for row in given.values()} == {*keys().files, "issuer.key.old.age"}
    assert set(policy.public_files(INVENTORY, ["apiserver.new.crt", "x.new.crt"])) == {
        *policy.public_files(INVENTORY), "apiserver.new.crt",
    }  # fmt: skip


def test_the_id_of_a_key_is_that_of_its_public_half() -> None:
    private = certificates.new_key()
    public = certificates.parse_key(private, "k").public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    assert base64.urlsafe_b64decode(issuer.key_id(private, "k") + "=") == digest


def entry(seconds: float, message: str) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(int(seconds * 1e6)), "MESSAGE_ID": message})


STOPPING, EXITED, STARTED = (
    "de5b426a63be47a7b6ac3eaac82e2f6f", "98e322203f7a4ed290d09fe03c09fe15", "39f53479d3a045ac8e11786248231fbf",
)  # fmt: skip


def test_an_outage_is_from_the_stop_to_the_next_answer() -> None:
    stop = (entry(10, STOPPING), entry(11, EXITED), entry(12, "other"), entry(14, STARTED))
    crash = (entry(20, EXITED), entry(31.5, STARTED))
    found = engine.Outage()
    found.add("\n".join((entry(1, STARTED), *stop, *crash)))
    assert asdict(found) == {"restarts": 2, "seconds": 15.5}
    assert found.words == "the API server restarted 2 times and did not answer for 16 s in all"
    assert engine.Outage().words == "the API server did not restart"


@pytest.mark.parametrize(("days", "renewed"), [(3589, 0), (3591, 1), (4000, 1)])
def test_certificates_are_replaced_sixty_days_before_expiry(days: int, renewed: int) -> None:
    assert API.certificate
    pem = certificates.issue(API.certificate, certificates.new_key(), NOW)
    faults = certificates.complaints(pem, API.certificate, API.file, None, NOW + timedelta(days=days))
    assert len(faults) == renewed
