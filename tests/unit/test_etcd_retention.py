"""Which backups the retention policy keeps: by examples, and by properties over any history, clock jumps included."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.etcd import retention
from smallkube.etcd.record import Record, timestamp
from smallkube.inventory.sections import Keep


def record(sequence: int, time: datetime, *, sound: bool = True, signed: bool = True) -> Record:
    return Record(
        name=f"b{sequence}",
        cluster="demo",
        sequence=sequence,
        created=timestamp(time),
        revision=sequence,
        size=544,
        snapshot_sha256="0" * 64,
        stored_size=700,
        stored_sha256="1" * 64,
        etcd="3.6.6",
        recipient="age1x",
        verified=timestamp(time) if sound else None,
        signed=signed,
    )


START = datetime(2026, 1, 1, 3, 17, tzinfo=UTC)
NOW = datetime(2031, 1, 1, tzinfo=UTC)


def kept(records: list[Record], rule: Keep, now: datetime = NOW) -> dict[str, tuple[str, ...]]:
    return retention.kept(records, rule, now)


NIGHTS = [record(night + 1, START + timedelta(days=night)) for night in range(100)]


def names(records: list[Record], **keep: int) -> list[str]:
    rule = Keep(**{"last": 1, "daily": 0, "weekly": 0, "monthly": 0, **keep})
    stay = kept(records, rule)
    return [each.name for each in records if each.name in stay]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"last": 3}, ["b98", "b99", "b100"]),
        ({"daily": 2}, ["b99", "b100"]),
        ({"weekly": 3}, ["b88", "b95", "b100"]),  # Sundays, and the week that is not over
        ({"monthly": 3}, ["b59", "b90", "b100"]),  # ends of February and March, and April so far
        ({"monthly": 100}, ["b31", "b59", "b90", "b100"]),
    ],
)
def test_a_backup_each_night(keep: dict[str, int], expected: list[str]) -> None:
    assert names(NIGHTS, **keep) == expected


def test_a_damaged_backup_does_not_count_and_stays() -> None:
    broken = [*NIGHTS[:-1], record(100, NIGHTS[-1].time, sound=False)]
    assert names(broken, last=2) == ["b98", "b99", "b100"]
    assert kept(broken, Keep())["b100"] == ("not sound",)


def test_after_a_clock_jump_the_newest_is_the_one_taken_last() -> None:
    assert names([*NIGHTS, record(101, START - timedelta(days=400))]) == ["b101"]


def test_a_backup_of_the_far_future_takes_no_slot() -> None:
    strange = [record(1, datetime(2099, 1, 1, tzinfo=UTC)), *(record(n + 2, NIGHTS[n].time) for n in range(5))]
    assert names(strange, last=3, daily=4) == ["b1", "b3", "b4", "b5", "b6"]
    assert names([*strange, record(9, datetime(2098, 1, 1, tzinfo=UTC))], last=1) == ["b1", "b6", "b9"]


histories: st.SearchStrategy[list[Record]] = st.lists(
    st.tuples(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), st.booleans()), max_size=40
).map(lambda rows: [record(n, time.replace(tzinfo=UTC), sound=sound) for n, (time, sound) in enumerate(rows, 1)])
counts = st.integers(0, 6)
rules = st.builds(Keep, last=st.integers(1, 6), daily=counts, weekly=counts, monthly=counts)


@given(histories, rules)
def test_the_newest_sound_backup_always_stays(history: list[Record], rule: Keep) -> None:
    sound = [each for each in history if each.sound]
    assert not sound or sound[-1].name in kept(history, rule)


@given(histories, rules)
def test_damaged_backups_do_not_change_what_else_stays(history: list[Record], rule: Keep) -> None:
    sound = [each for each in history if each.sound]
    with_them, without = kept(history, rule), kept(sound, rule)
    assert {name: why for name, why in with_them.items() if why != ("not sound",)} == without
    assert len(with_them) == len(without) + len(history) - len(sound)


@given(histories, rules)
def test_no_more_stay_than_configured_and_pruning_is_repeatable(history: list[Record], rule: Keep) -> None:
    stay = kept([each for each in history if each.sound], rule)
    assert len(stay) <= rule.last + rule.daily + rule.weekly + rule.monthly
    again = kept([each for each in history if each.name in stay], rule)
    assert again.keys() == stay.keys()


BUCKETS: dict[str, Callable[[datetime], object]] = {
    "daily": lambda time: (time.year, time.month, time.day),
    "weekly": lambda time: time.strftime("%G %V"),
    "monthly": lambda time: (time.year, time.month),
}


@given(histories, rules, st.sampled_from(sorted(BUCKETS)))
def test_each_of_the_last_periods_keeps_its_newest(history: list[Record], rule: Keep, kind: str) -> None:
    sound = [each for each in history if each.sound]
    bucket, stay = BUCKETS[kind], kept(history, rule)
    latest = {bucket(each.time): each for each in sound}
    wanted = sorted(latest.values(), key=lambda each: each.time, reverse=True)[: getattr(rule, kind)]
    assert all(kind in stay[each.name] for each in wanted)


@given(histories, rules, st.integers(-4000, 0))
def test_what_the_clock_puts_in_the_future_stays(history: list[Record], rule: Keep, days: int) -> None:
    """Neither a wrong date then nor a wrong clock now removes a backup; those of real nights stay as without it."""
    now = NOW + timedelta(days=days)
    stay, past = kept(history, rule, now), [each for each in history if each.time <= now or not each.sound]
    assert {each.name for each in history if each.sound and each.time > now} <= stay.keys()
    assert kept(past, rule, now).items() <= stay.items()


@given(histories, rules, st.data())
def test_unsigned_backups_do_not_change_what_else_stays(history: list[Record], rule: Keep, data: st.DataObject) -> None:
    forged = [record(n, data.draw(st.sampled_from(NIGHTS)).time, signed=False) for n in range(100, 105)]
    with_them = kept([*history, *forged], rule)
    assert kept(history, rule).items() <= with_them.items()
