"""This machine in the place of a node at the other end of SSH: the same commands, run here."""

import os
import subprocess
import threading
from collections.abc import Callable
from typing import IO, BinaryIO

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.remote.command import Command, Result

_CHUNK = 1 << 18


class Local:
    """Runs commands as ``remote.connection.Session`` does, but as the user that we are; ``where`` is in its errors.

    ``Command.timeout`` does not apply: what runs here must give up by itself.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def run(
        self,
        command: Command,
        *,
        on_stderr: Callable[[bytes], object] = lambda _: None,
        source: BinaryIO | None = None,
        on_stdout: Callable[[bytes], object] | None = None,
    ) -> Result:
        """Run ``command``; raises UsageError when its program is not here, and whatever ``on_stdout`` raises."""
        output: list[bytes] = []
        errors: list[bytes] = []

        def hear_errors(data: bytes) -> None:
            errors.append(data)
            on_stderr(data)

        with _start(command, self.where) as process:
            assert process.stdin and process.stdout and process.stderr
            speaking = threading.Thread(target=_speak, args=(process.stdin, command, source), daemon=True)
            hearing = threading.Thread(target=_hear, args=(process.stderr, hear_errors), daemon=True)
            speaking.start()
            hearing.start()
            try:
                _hear(process.stdout, on_stdout or output.append)
                hearing.join()
                status = process.wait()
            except BaseException:
                process.stdin.close()
                if not command.hold:  # else it has just been told, and has to tell the others
                    process.terminate()
                hearing.join()
                raise
        return Result(status, b"".join(output), b"".join(errors).decode(errors="replace"))

    def run_checked(self, command: Command) -> Result:
        """``run``, and a command that fails is a SmallkubeError with its last words."""
        result = self.run(command)
        if not result.ok:
            raise SmallkubeError(f"{command.name} failed: {result.last_line}", where=self.where)
        return result


def _start(command: Command, where: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command.argv, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise UsageError(f"{command.argv[0]} can't be run: {error.strerror}", where=where) from error


def _hear(stream: IO[bytes], listener: Callable[[bytes], object]) -> None:
    while data := os.read(stream.fileno(), _CHUNK):
        listener(data)


def _speak(stream: IO[bytes], command: Command, source: BinaryIO | None) -> None:
    try:
        stream.write(command.stdin or b"")
        while source and (data := source.read(_CHUNK)):
            stream.write(data)
        stream.flush()
        if not command.hold:
            stream.close()
    except (OSError, ValueError):
        return  # it ended without reading all
