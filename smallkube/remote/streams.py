"""All three streams of one remote command at once, so that neither side can block the other by filling a window."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, TypeVar

import paramiko

from smallkube.remote.command import Command, Output, Result

_CHUNK = 1 << 16
_POLL_SECONDS = 1.0

T = TypeVar("T")


class ChannelStreams:
    """One command on ``channel``, given up when nothing was heard on any stream for ``command.timeout`` seconds."""

    def __init__(
        self,
        channel: paramiko.Channel,
        command: Command,
        on_stderr: Callable[[bytes], object],
        stopped: Callable[[], bool],
        source: BinaryIO | None = None,
        on_stdout: Callable[[bytes], object] | None = None,
    ) -> None:
        self.channel, self.command, self._source, self._listener = channel, command, source, on_stdout
        self._said, self._stopped = on_stderr, stopped
        self._errors = Output(command)
        self._fault: Exception | None = None
        self._heard = time.monotonic()
        self._deadline = self._heard + command.total_timeout
        channel.settimeout(min(command.timeout, _POLL_SECONDS))

    def result(self) -> Result:
        """Its result, once all was said and heard.

        Raises TimeoutError, InterruptedError (``stopped`` was true), EOFError or another OSError when it can't be had,
        and whatever ``on_stderr`` or ``on_stdout`` raised.
        """
        threads = [threading.Thread(target=work, daemon=True) for work in (self._speak, self._hear_errors)]
        for thread in threads:
            thread.start()
        output = self._hear_output()
        threads[1].join()
        self._patiently(self._ended)
        status = self.channel.recv_exit_status()
        if status < 0:
            raise EOFError("closed before the command ended")
        if self._fault:
            raise self._fault
        return Result(status, output, self._errors.data.decode(errors="replace"))

    def _hear_output(self) -> bytes:
        output = Output(self.command)
        listener = self._listener or output.write
        for data in self._hear(self.channel.recv):
            listener(data)
        return output.data

    def _ended(self) -> None:
        if not self.channel.status_event.wait(_POLL_SECONDS):
            raise TimeoutError

    def _speak(self) -> None:
        try:
            self._send(self.command.stdin or b"")
            while self._source and (data := self._source.read(_CHUNK)):
                self._send(data)
            if not self.command.hold:
                self.channel.shutdown_write()
        except (OSError, EOFError, ValueError, paramiko.SSHException):
            return  # it ended without reading all, or whoever hears meets the same fault and reports it

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            sent = self._patiently(partial(self.channel.send, bytes(left[:_CHUNK])))
            if not sent:
                raise EOFError("closed")
            left = left[sent:]

    def _hear(self, receive: Callable[[int], bytes]) -> Iterator[bytes]:
        while data := self._patiently(lambda: receive(_CHUNK)):
            yield data

    def _hear_errors(self) -> None:
        try:
            for data in self._hear(self.channel.recv_stderr):
                self._pass_on(data)
        except OSError:
            return  # whoever reads standard output meets the same fault and reports it

    def _pass_on(self, data: bytes) -> None:
        if self._fault is None:
            try:
                self._errors.write(data)
                self._said(data)
            except Exception as error:
                self._fault = error  # raised at the end; what follows must still be heard, or the command blocks

    def _patiently(self, attempt: Callable[[], T]) -> T:
        while True:
            if self._stopped():
                raise InterruptedError("interrupted")
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"not done after {self.command.total_timeout:.0f} s")
            try:
                result = attempt()
            except TimeoutError:
                if time.monotonic() - self._heard > self.command.timeout:
                    raise TimeoutError(f"nothing heard for {self.command.timeout:.0f} s") from None
            else:
                self._heard = time.monotonic()
                return result
