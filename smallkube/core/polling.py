"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable, Sequence

from smallkube.core.errors import SmallkubeError

FIRST_PAUSE = 0.1
"""In seconds."""


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

    The pauses grow from FIRST_PAUSE to ``interval``: what is soon there is seen soon, what is not costs little.
    Raises ``error``, whose text lists what was missing last after ``failure``, and whatever ``missing`` raises.
    """
    deadline, pause = time.monotonic() + seconds, min(FIRST_PAUSE, interval)
    while found := missing():
        if time.monotonic() + pause > deadline:
            raise error(f"{failure}: {', '.join(found)}", where=where, hint=hint)
        time.sleep(pause)
        pause = min(1.5 * pause, interval)
