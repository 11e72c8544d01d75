"""This machine in the place of a node at the other end of SSH: the same commands, run here."""

import os
import subprocess  # the callbacks get what comes while it runs
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from smallkube.core import process
from smallkube.inventory.models import Node
from smallkube.remote.host import Host, Streams

_CHUNK = 1 << 18


class LocalHost(Host):
    """This machine in the place of ``node``: the same commands, run as the user that we are.

    ``Command.timeout`` does not apply: what runs here must give up by itself.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node, "this machine")

    def _run(self, streams: Streams) -> int:
        """Raises UsageError when the program is not found."""
        command, pipe = streams.command, subprocess.PIPE
        try:
            # In a session of its own: a terminal and timeout(1) signal all of ours, also what is to end the rest.
            program = process.start(command.argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except process.NotStarted as error:
            raise self.error(f"{command.argv[0]} {error.message}", usage=True) from error
        with program:
            assert program.stdin and program.stdout and program.stderr
            writer = threading.Thread(target=_write, args=(program.stdin, streams), daemon=True)
            reader = threading.Thread(target=_read_errors, args=(program.stderr, streams.stderr), daemon=True)
            writer.start()
            reader.start()
            try:
                _read(program.stdout, streams.stdout)
                reader.join()
                return program.wait()
            except BaseException:
                program.stdin.close()
                program.stdout.close()  # what waits for us to read on would not end
                if not command.hold:  # else the end of its input ends it and its children
                    program.terminate()
                reader.join()
                raise


def _read(stream: IO[bytes], on_data: Callable[[bytes], object]) -> None:
    while data := os.read(stream.fileno(), _CHUNK):
        on_data(data)


def _read_errors(stream: IO[bytes], on_data: Callable[[bytes], object]) -> None:
    with suppress(OSError, ValueError):  # closed, because a second signal ends the wait for its end
        _read(stream, on_data)


def _write(stream: IO[bytes], streams: Streams) -> None:
    with suppress(OSError, ValueError):  # it ended without reading all
        for data in streams.stdin():
            stream.write(data)
        stream.flush()
        if not streams.command.hold:
            stream.close()
