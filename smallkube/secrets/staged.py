"""How far a rotation of certificates has come, by what is in keys/, and the files of each of its steps. Pure.

NAME.new.crt is trusted as well as NAME.crt but not used yet; NAME.old.crt is still trusted and used no more. The
private key of either is NAME.key.new.age or NAME.key.old.age, which no machine is given. It is there from the first
step until the last one has been deployed: a staged key without a certificate says that only a deploy is missing.
"""

import datetime
from collections.abc import Sequence
from enum import StrEnum

from smallkube.secrets import certificates
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Change, Keys


class Stage(StrEnum):
    """How far one certificate has come."""

    ONE = "one certificate"
    TRUSTED = "the new one is trusted as well as the one in use"
    SWITCHED = "the new one is in use, the previous one still trusted"
    DEPLOY_PENDING = "one certificate, not deployed to every machine"


def of(row: Secret, keys: Keys) -> Stage:
    """The stage of ``row``, a key with a certificate."""
    if row.new.file in keys.files and _certificate(row.new) in keys.certificates:
        return Stage.TRUSTED
    if row.old.file in keys.files and _certificate(row.old) in keys.certificates:
        return Stage.SWITCHED
    return Stage.DEPLOY_PENDING if {row.new.file, row.old.file} & keys.files.keys() else Stage.ONE


def replaced(rows: Sequence[Secret], now: datetime.datetime) -> Change:
    """New keys and certificates instead of the previous ones, at once."""
    keys = {row: certificates.new_key() for row in rows}
    return Change(keys, public={**certificates.issue_all(keys, now)})


def begun(rows: Sequence[Secret], now: datetime.datetime) -> Change:
    """ONE → TRUSTED."""
    return replaced([row.new for row in rows], now)


def switched(rows: Sequence[Secret]) -> Change:
    """TRUSTED → SWITCHED."""
    return Change(
        moved={row.old: row for row in rows} | {row: row.new for row in rows}, removed=[row.new for row in rows]
    )


def switched_back(rows: Sequence[Secret]) -> Change:
    """SWITCHED → TRUSTED, in which the previous certificate is the one in use again."""
    return Change(
        moved={row.new: row for row in rows} | {row: row.old for row in rows}, removed=[row.old for row in rows]
    )


def untrusted(rows: Sequence[Secret]) -> Change:
    """TRUSTED or SWITCHED → DEPLOY_PENDING."""
    return Change(public={_certificate(each): None for row in rows for each in row.staged})


def ended(rows: Sequence[Secret]) -> Change:
    """DEPLOY_PENDING → ONE."""
    return Change(removed=[each for row in rows for each in row.staged])


def _certificate(row: Secret) -> str:
    assert row.certificate
    return row.certificate.file
