"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable, Sequence

from smallkube.core.errors import SmallkubeError


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

    Raises ``error``, whose text lists what was missing last after ``failure``, and whatever ``missing`` raises.
    """
    deadline = time.monotonic() + seconds
    while found := missing():
        if time.monotonic() + interval > deadline:
            raise error(f"{failure}: {', '.join(found)}", where=where, hint=hint)
        time.sleep(interval)
