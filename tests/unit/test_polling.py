"""Proves how waiting pauses: soon at first, rarely later, and never beyond its end."""

import pytest

from smallkube.core import polling
from smallkube.core.errors import SmallkubeError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that were made, on a clock that only they move."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(made))
    return made


def test_pauses_grow_to_the_interval(pauses: list[float]) -> None:
    polling.wait_until(lambda: [] if sum(pauses) > 5 else ["it"], 60, "not there", interval=0.4)
    assert pauses[:4] == pytest.approx([0.1, 0.15, 0.225, 0.3375])
    assert {*pauses[4:]} == {0.4}


def test_a_short_interval_is_the_pause(pauses: list[float]) -> None:
    polling.wait_until(lambda: [] if len(pauses) == 3 else ["it"], 60, "not there", interval=0.05)
    assert pauses == [0.05] * 3


def test_who_answers_slowly_is_left_alone_as_long(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [0.05, 0.4, 3.0, 60.0, 0.0]
    asked = list[float]()

    def missing() -> list[str]:
        asked.append(answers[len(asked)])
        return ["it"] if len(asked) < len(answers) else []

    monkeypatch.setattr("time.monotonic", lambda: sum(pauses) + sum(asked))
    polling.wait_until(missing, 100, "not there")
    assert pauses == pytest.approx([0.1, 0.4, 3.0, polling.SLOWEST_PAUSE])


def test_a_slow_answer_is_asked_for_until_the_end(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[float]()

    def missing() -> list[str]:
        asked.append(4.0)
        return [] if len(asked) == 2 else ["it"]

    monkeypatch.setattr("time.monotonic", lambda: sum(pauses) + sum(asked))
    polling.wait_until(missing, 5, "not there")
    assert pauses == [1.0]


@pytest.mark.parametrize("seconds", [0, 1, 30])
def test_it_ends_in_time_with_what_is_missing(pauses: list[float], seconds: float) -> None:
    with pytest.raises(SmallkubeError, match="not there: this, that"):
        polling.wait_until(lambda: ["this", "that"], seconds, "not there")
    assert seconds - polling.FIRST_PAUSE - 1 <= sum(pauses) <= seconds
