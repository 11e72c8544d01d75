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


def switched(rows: Sequence[Secret], keys: Keys) -> Change:
    """TRUSTED → SWITCHED."""
    return _moved({row.old: row for row in rows} | {row: row.new for row in rows}, keys)


def switched_back(rows: Sequence[Secret], keys: Keys) -> Change:
    """SWITCHED → TRUSTED, in which the previous certificate is the one in use again."""
    return _moved({row.new: row for row in rows} | {row: row.old for row in rows}, keys)


def untrusted(rows: Sequence[Secret], keys: Keys) -> Change:
    """TRUSTED or SWITCHED → DEPLOY_PENDING."""
    staged = (_certificate(each) for row in rows for each in row.staged)
    return Change(public={file: None for file in staged if file in keys.certificates})


def ended(rows: Sequence[Secret], keys: Keys) -> Change:
    """DEPLOY_PENDING → ONE."""
    return Change(removed=[each for row in rows for each in row.staged if each.file in keys.files])


def _moved(files: dict[Secret, Secret], keys: Keys) -> Change:
    """Each gets key and certificate of the other; what gets none is removed."""
    removed = [row for row in files.values() if row not in files]
    public = {_certificate(to): keys.certificates[_certificate(source)] for to, source in files.items()}
    return Change(moved=files, removed=removed, public={**public, **dict.fromkeys(map(_certificate, removed))})


def _certificate(row: Secret) -> str:
    assert row.certificate
    return row.certificate.file
