"""A port of this machine from which connections are carried over SSH to where a node reaches something.

It stays: when the connection to the node is lost, it is made again.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import paramiko

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.remote.ssh import SshHost

_CHUNK = 1 << 16
_POLL_SECONDS = 1.0
RETRY_SECONDS = 5.0
LOOPBACK = "127.0.0.1"

Target = tuple[str, int]
"""Address and port, as the node reaches them."""


def listen(port: int) -> socket.socket:
    """A socket that listens at ``port`` (0: a free one) on loopback alone. Raises UsageError when it is taken."""
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        hint = "give another one by --port, or 0 for a free one"
        reason = os.strerror(error.errno or 0)  # Python adds to its own text
        raise UsageError(f"can't be listened at: {reason}", where=f"{LOOPBACK}:{port}", hint=hint) from error


@dataclass
class Tunnel:
    """From the socket ``listener`` over a connection that ``connect`` makes to ``target``.

    ``report`` gets a line when the connection is lost, and when it is there again.
    """

    connect: Callable[[], SshHost]
    target: Target
    listener: socket.socket
    report: Callable[[str], object]

    def serve(self, ready: Callable[[], object]) -> None:
        """Carry connections until the process is interrupted.

        ``ready`` is called once the node has been seen to reach the target. Raises SmallkubeError when it doesn't, or
        can't be reached itself; only at first.
        """
        self.listener.settimeout(_POLL_SECONDS)
        began = False
        while True:
            try:
                with self.connect() as host:
                    if began:
                        self.report(f"connected to {host.where} again")
                    else:
                        host.open_channel(self.target).close()
                        ready()
                    began = True
                    self._carry(host)
                    self.report(f"connection to {host.where} lost; connecting again every {RETRY_SECONDS:.0f} s")
            except SmallkubeError:
                if not began:
                    raise
                time.sleep(RETRY_SECONDS)

    def _carry(self, host: SshHost) -> None:
        """Serve clients until the connection to the node is lost."""
        while host.is_connected:
            try:
                client, _ = self.listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(host, client), daemon=True).start()

    def _serve(self, host: SshHost, client: socket.socket) -> None:
        with client:
            try:
                channel = host.open_channel(self.target)
            except SmallkubeError as error:
                self.report(str(error))
                return
            with channel:
                back = threading.Thread(target=_copy, args=(channel, client), daemon=True)
                back.start()
                _copy(client, channel)
                back.join()


def _copy(source: socket.socket | paramiko.Channel, sink: socket.socket | paramiko.Channel) -> None:
    """All of ``source``, and its end; whichever side breaks, the other one meets its end."""
    try:
        while data := source.recv(_CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except (OSError, EOFError, paramiko.SSHException):
        for side in (source, sink):
            with suppress(OSError, EOFError, paramiko.SSHException):
                side.shutdown(socket.SHUT_RDWR)
