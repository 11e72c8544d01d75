"""Which backups stay: a function of what there is; today's date matters only for what is dated after it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from smallkube.etcd.record import Record
from smallkube.inventory.sections import Keep

BUCKETS: dict[str, Callable[[datetime], object]] = {
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
}


def kept(records: Sequence[Record], keep: Keep, now: datetime | None = None) -> dict[str, tuple[str, ...]]:
    """Name → why it stays, for each of ``records`` that does.

    Of the sound ones, in the order in which they were taken: the newest ``keep.last``, and the newest of each of the
    last so many days, weeks (ISO 8601) and months (UTC) in which there was one. An unsigned one has no slot that a
    signed one would need. What does not count, because it is not sound or dated after ``now`` (which a wrong clock then
    or now explains), stays: it is removed on request only.
    """
    now = now or datetime.now(UTC)
    sound = sorted((record for record in records if record.sound), key=lambda record: -record.sequence)
    real = [record for record in sound if record.time <= now]
    signed = _slots([record for record in real if record.signed], keep)
    others = _slots(real, keep)
    reasons = {record.name: others[record.name] for record in real if not record.signed and record.name in others}
    reasons |= signed
    reasons |= {record.name: ["dated in the future"] for record in sound if record.time > now}
    reasons |= {record.name: ["not sound"] for record in records if not record.sound}
    return {name: tuple(why) for name, why in reasons.items()}


def _slots(newest_first: Sequence[Record], keep: Keep) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {record.name: ["last"] for record in newest_first[: keep.last]}
    for kind, bucket in BUCKETS.items():
        newest = {bucket(record.time): record for record in reversed(newest_first)}
        for record in sorted(newest.values(), key=lambda record: record.time, reverse=True)[: getattr(keep, kind)]:
            reasons.setdefault(record.name, []).append(kind)
    return reasons


def removable(records: Sequence[Record], keep: Keep) -> tuple[str, ...]:
    """Names of those that don't stay."""
    staying = kept(records, keep)
    return tuple(record.name for record in records if record.name not in staying)
