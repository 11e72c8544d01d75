"""This machine in the place of a node at the other end of SSH: the same commands, run here."""

import os
import subprocess  # the callbacks get what comes while it runs
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, BinaryIO

from smallkube.core.errors import UsageError
from smallkube.inventory.models import Node
from smallkube.remote.command import Command, Output, OutputLimitError, Result, Streams
from smallkube.remote.host import Host

_CHUNK = 1 << 18


class LocalHost(Host):
    """This machine in the place of ``node``: the same commands, run as the user that we are.

    ``Command.timeout`` does not apply: what runs here must give up by itself.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node, "this machine")

    def _run(self, command: Command, streams: Streams) -> Result:
        """Raises UsageError when the program is not found."""
        output, errors = Output(command), Output(command)

        def read_errors(data: bytes) -> None:
            with suppress(OutputLimitError):  # the rest must still be read, or the command blocks
                errors.write(data)
            streams.on_stderr(data)

        with _start(command, self.where) as process:
            assert process.stdin and process.stdout and process.stderr
            writer = threading.Thread(target=_write, args=(process.stdin, command, streams.source), daemon=True)
            reader = threading.Thread(target=_read, args=(process.stderr, read_errors), daemon=True)
            writer.start()
            reader.start()
            try:
                _read(process.stdout, streams.on_stdout or output.write)
                reader.join()
                status = process.wait()
            except BaseException as error:
                process.stdin.close()
                if not command.hold:  # else the end of its input ends it and its children
                    process.terminate()
                reader.join()
                if isinstance(error, OutputLimitError):
                    raise self.error(f"{command.name} printed more than {command.limit >> 20} MiB") from error
                raise
        return Result(status, output.data, errors.data.decode(errors="replace"))


def _start(command: Command, where: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command.argv, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise UsageError(f"{command.argv[0]} can't be run: {error.strerror}", where=where) from error


def _read(stream: IO[bytes], on_data: Callable[[bytes], object]) -> None:
    while data := os.read(stream.fileno(), _CHUNK):
        on_data(data)


def _write(stream: IO[bytes], command: Command, source: BinaryIO | None) -> None:
    try:
        stream.write(command.stdin or b"")
        while source and (data := source.read(_CHUNK)):
            stream.write(data)
        stream.flush()
        if not command.hold:
            stream.close()
    except (OSError, ValueError):
        return  # it ended without reading all
