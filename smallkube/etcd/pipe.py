"""A stream that is written here and read by work in a thread of its own, which is never further ahead than a pipe."""

import os
import threading
from collections.abc import Callable
from typing import BinaryIO, Generic, TypeVar

T = TypeVar("T")


class Pipe(Generic[T]):
    """Runs ``work`` on the reading end. What it raises is raised by ``write`` or ``end``."""

    def __init__(self, work: Callable[[BinaryIO], T]) -> None:
        reading, self._writing = os.pipe()
        self._open = True
        self._work = work
        self._results: list[T] = []
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(reading,), daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Hand ``data`` over; waits while the work is behind."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._writing, rest) :]
        except BrokenPipeError:
            self.end()
            raise

    def end(self) -> T:
        """Close the stream and wait for the result."""
        self.abandon()
        if self._fault:
            raise self._fault
        return self._results[0]

    def abandon(self) -> None:
        """Close the stream and wait; the result does not matter."""
        if self._open:
            self._open = False
            os.close(self._writing)
        self._thread.join()

    def _run(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as stream:
            try:
                self._results.append(self._work(stream))
            except Exception as error:
                self._fault = error
