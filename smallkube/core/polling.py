"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable, Sequence

from smallkube.core.errors import SmallkubeError


def wait_until(
    missing: Callable[[], Sequence[str]],
    seconds: float,
    error: Callable[[str], SmallkubeError],
    interval: float = 1.0,
) -> None:
    """Ask until nothing is ``missing``, at least once and for at most ``seconds``.

    Raises what ``error`` makes of a text that lists what was missing last, and whatever ``missing`` raises.
    """
    deadline = time.monotonic() + seconds
    while found := missing():
        if time.monotonic() + interval > deadline:
            raise error(", ".join(found))
        time.sleep(interval)
