"""This process towards the system."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from smallkube.core.errors import SmallkubeError


@contextmanager
def signals_as_errors(state: str) -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the block by a SmallkubeError that says in which ``state`` things are left."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SmallkubeError(f"stopped by {signal.Signals(number).name}; {state}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
