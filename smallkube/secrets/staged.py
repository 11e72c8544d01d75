"""Where a rotation of certificates stands, by what is in keys/, and the files of each of its steps. Pure.

NAME.new.crt is trusted beside NAME.crt but used by nobody yet; NAME.old.crt is trusted still and used no more. The
private key of either stands beside as NAME.key.new.age and NAME.key.old.age, which no machine is given. It is there
from the first step until the machines have been told of the last one: a key beside that has no certificate any more
says that only a deploy is missing.
"""

import datetime
from collections.abc import Sequence
from enum import StrEnum

from smallkube.secrets import certificates
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Certificate, Secret
from smallkube.secrets.store import Keys


class Stage(StrEnum):
    """How far one certificate has come."""

    ONE = "one certificate"
    TRUSTED = "the new one is trusted beside the one in use"
    SWITCHED = "the new one is in use, the old one still trusted"
    ENDING = "one certificate, of which not every machine has been told"


def of(row: Secret, keys: Keys) -> Stage:
    """The stage of ``row``, a key with a certificate."""
    if row.new.file in keys.files and _certificate(row.new).file in keys.certificates:
        return Stage.TRUSTED
    if row.old.file in keys.files and _certificate(row.old).file in keys.certificates:
        return Stage.SWITCHED
    return Stage.ENDING if {row.new.file, row.old.file} & keys.files.keys() else Stage.ONE


def replaced(rows: Sequence[Secret], now: datetime.datetime) -> Contents:
    """New keys and certificates in the place of the old, with nothing between."""
    pairs = {row: certificates.new_key() for row in rows}
    return Contents(pairs, {}, clear={_certificate(row).file: _issued(row, key, now) for row, key in pairs.items()})


def begun(rows: Sequence[Secret], now: datetime.datetime) -> Contents:
    """ONE → TRUSTED."""
    return replaced([row.new for row in rows], now)


def switched(rows: Sequence[Secret], keys: Keys) -> Contents:
    """TRUSTED → SWITCHED."""
    files = {row.old: row for row in rows} | {row: row.new for row in rows}
    return _moved(files, [row.new for row in rows], keys)


def switched_back(rows: Sequence[Secret], keys: Keys) -> Contents:
    """SWITCHED → TRUSTED, in which the old certificate is the one in use again."""
    files = {row.new: row for row in rows} | {row: row.old for row in rows}
    return _moved(files, [row.old for row in rows], keys)


def untrusted(rows: Sequence[Secret], keys: Keys) -> Contents:
    """TRUSTED or SWITCHED → ENDING."""
    beside = (_certificate(each).file for row in rows for each in row.staged)
    return Contents({}, {}, clear={file: None for file in beside if file in keys.certificates})


def ended(rows: Sequence[Secret], keys: Keys) -> Contents:
    """ENDING → ONE."""
    return Contents({}, {}, tuple(each for row in rows for each in row.staged if each.file in keys.files))


def _moved(files: dict[Secret, Secret], gone: Sequence[Secret], keys: Keys) -> Contents:
    clear: dict[str, bytes | None] = {
        _certificate(to).file: keys.certificates[_certificate(source).file] for to, source in files.items()
    }
    return Contents({}, files, tuple(gone), clear | {_certificate(row).file: None for row in gone})


def _issued(row: Secret, key: bytes, now: datetime.datetime) -> bytes:
    return certificates.issue(_certificate(row), key, now)


def _certificate(row: Secret) -> Certificate:
    assert row.certificate
    return row.certificate
