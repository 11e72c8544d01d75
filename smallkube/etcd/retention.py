"""Which backups stay: a pure function of what there is, not of today's date."""

from collections.abc import Callable, Sequence
from datetime import datetime

from smallkube.etcd.record import Record
from smallkube.inventory.models import Keep

BUCKETS: dict[str, Callable[[datetime], object]] = {
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
}


def kept(records: Sequence[Record], keep: Keep) -> dict[str, tuple[str, ...]]:
    """Name → why it stays, for each of ``records`` that does.

    Of the sound ones, in the order in which they were taken: the newest ``keep.last``, and the newest of each of the
    last so many days, weeks (ISO 8601) and months (UTC) in which there was one. A backup that is not sound does not
    count, and stays as evidence: it is removed on request only.
    """
    sound = sorted((record for record in records if record.sound), key=lambda record: -record.sequence)
    reasons: dict[str, list[str]] = {record.name: ["last"] for record in sound[: keep.last]}
    for kind, bucket in BUCKETS.items():
        newest = {bucket(record.time): record for record in reversed(sound)}
        for record in sorted(newest.values(), key=lambda record: record.time, reverse=True)[: getattr(keep, kind)]:
            reasons.setdefault(record.name, []).append(kind)
    for record in records:
        if not record.sound:
            reasons[record.name] = ["not sound"]
    return {name: tuple(why) for name, why in reasons.items()}


def removable(records: Sequence[Record], keep: Keep) -> tuple[str, ...]:
    """Names of those that don't stay."""
    staying = kept(records, keep)
    return tuple(record.name for record in records if record.name not in staying)
