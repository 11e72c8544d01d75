"""All three streams of one remote command at once, so that neither side can block the other by filling a window."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import paramiko

from smallkube.remote.command import Command, Output, Result, Streams

_CHUNK = 1 << 16
_POLL_SECONDS = 1.0

T = TypeVar("T")


class ChannelStreams:
    """One command on ``channel``, given up after ``command.timeout`` seconds without activity on any stream."""

    def __init__(self, channel: paramiko.Channel, command: Command, streams: Streams) -> None:
        self.channel, self.command, self.streams = channel, command, streams
        self._errors = Output(command)
        self._fault: Exception | None = None
        self._active = time.monotonic()
        self._deadline = self._active + command.total_timeout
        channel.settimeout(min(command.timeout, _POLL_SECONDS))

    def result(self) -> Result:
        """Its result, once it has ended and all output was read.

        Raises TimeoutError, InterruptedError (``stopped`` was true), EOFError or another OSError without a result, and
        whatever ``on_stderr`` or ``on_stdout`` raised.
        """
        threads = [threading.Thread(target=work, daemon=True) for work in (self._write_input, self._read_errors)]
        for thread in threads:
            thread.start()
        output = Output(self.command)
        for data in self._pieces(self.channel.recv):
            (self.streams.on_stdout or output.write)(data)
        threads[1].join()
        self._patiently(self._ended)
        status = self.channel.recv_exit_status()
        if status < 0:
            raise EOFError("closed before the command ended")
        if self._fault:
            raise self._fault
        return Result(status, output.data, self._errors.data.decode(errors="replace"))

    def _ended(self) -> None:
        if not self.channel.status_event.wait(_POLL_SECONDS):
            raise TimeoutError

    def _write_input(self) -> None:
        try:
            self._send(self.command.stdin or b"")
            while self.streams.source and (data := self.streams.source.read(_CHUNK)):
                self._send(data)
            if not self.command.hold:
                self.channel.shutdown_write()
        except (OSError, EOFError, ValueError, paramiko.SSHException):
            return  # it ended without reading all, or result() meets the same fault and reports it

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            sent = self._patiently(partial(self.channel.send, bytes(left[:_CHUNK])))
            if not sent:
                raise EOFError("closed")
            left = left[sent:]

    def _pieces(self, receive: Callable[[int], bytes]) -> Iterator[bytes]:
        while data := self._patiently(lambda: receive(_CHUNK)):
            yield data

    def _read_errors(self) -> None:
        try:
            for data in self._pieces(self.channel.recv_stderr):
                self._pass_on(data)
        except OSError:
            return  # result() meets the same fault and reports it

    def _pass_on(self, data: bytes) -> None:
        if self._fault is None:
            try:
                self._errors.write(data)
                self.streams.on_stderr(data)
            except Exception as error:
                self._fault = error  # raised at the end; the rest must still be read, or the command blocks

    def _patiently(self, attempt: Callable[[], T]) -> T:
        while True:
            if self.streams.stopped():
                raise InterruptedError("interrupted")
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"not done after {self.command.total_timeout:.0f} s")
            try:
                result = attempt()
            except TimeoutError:
                if time.monotonic() - self._active > self.command.timeout:
                    raise TimeoutError(f"no activity for {self.command.timeout:.0f} s") from None
            else:
                self._active = time.monotonic()
                return result
