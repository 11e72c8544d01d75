"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable, Sequence

from smallkube.core.errors import SmallkubeError

FIRST_PAUSE = 0.1
"""In seconds."""
SLOWEST_PAUSE = 5.0
"""In seconds: a longer one, however slow the answers are, would be waiting for nothing."""


def rest(pause: float, took: float) -> float:
    """How long to pause when the last answer ``took`` so many seconds: ``pause``, or as long, up to SLOWEST_PAUSE.

    Who answers slowly is busy, often with what is waited for, and each answer takes from that: at most half the time.
    """
    return max(pause, min(took, SLOWEST_PAUSE))


def wait_until(
    missing: Callable[[], Sequence[str]],
    seconds: float,
    failure: str,
    *,
    where: str | None = None,
    hint: str | None = None,
    error: type[SmallkubeError] = SmallkubeError,
    interval: float = 1.0,
) -> None:
    """Ask until nothing is ``missing``, at least once and for at most ``seconds``.

    The pauses grow from FIRST_PAUSE to ``interval``: what is soon there is seen soon, what is not costs little. See
    ``rest`` for answers that take longer.
    Raises ``error``, whose text lists what was missing last after ``failure``, and whatever ``missing`` raises.
    """
    began = time.monotonic()
    deadline, pause = began + seconds, min(FIRST_PAUSE, interval)
    while found := missing():
        now = time.monotonic()
        if now + pause > deadline:
            raise error(f"{failure}: {', '.join(found)}", where=where, hint=hint)
        time.sleep(min(rest(pause, now - began), deadline - now))
        began = time.monotonic()
        pause = min(1.5 * pause, interval)
