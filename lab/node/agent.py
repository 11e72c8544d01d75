"""Runs commands that the lab sends through serial ports: a virtual machine's network may be broken by a test.

One command at a time on each port. Both sides send lines of JSON; what is neither that nor of the command that runs
(a client may have been killed half-way) is ignored:

- to the machine ``{"token", "argv", "tty"}`` (tty: null, or rows and columns), then ``{"token", "in"}`` (base64, empty
  at its end);
- from the machine ``{"hello"}`` when the agent has started, ``{"token", "begun"}``, ``{"token", "out" or "err"}``
  (base64), ``{"token", "exit"}``.
"""

import base64
import json
import os
import pty
import select
import signal
import subprocess
import termios
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

PORTS = Path("/sys/class/virtio-ports")
NOT_FOUND = 127
CHUNK = 32768


class Port:
    """A port, by its non-blocking descriptor; the lab may or may not be connected to its other end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        # Edge-triggered: a port without a client is hung up all the time.
        self._wake = select.epoll()
        self._wake.register(self._descriptor, select.EPOLLIN | select.EPOLLHUP | select.EPOLLET)

    def send(self, **message: Any) -> None:
        """Send a line; it is dropped when no client is connected."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    if any(event & select.POLLHUP for _, event in poll.poll()):
                        return

    def serve(self) -> None:
        """Run what is asked for; does not return."""
        self.send(hello=True)
        command: Command | None = None
        rest = b""
        while True:
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                self._wake.poll()
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                command = self._take(line, command)
            if not data:
                rest = b""
                if command:
                    command.end()
                    command = None
                self._wake.poll()

    def _take(self, line: bytes, command: "Command | None") -> "Command | None":
        try:
            message = json.loads(line)
        except ValueError:
            return command
        if "argv" in message:
            if command:
                command.end()
            return Command(self, message)
        if command and message["token"] == command.token:
            command.feed(base64.b64decode(message["in"]))
        return command


class Command:
    """A command that runs."""

    def __init__(self, port: Port, request: Any) -> None:
        self.token = request["token"]
        self._port = port
        port.send(token=self.token, begun=True)
        argv, size = request["argv"], request["tty"]
        if size:
            master, slave = pty.openpty()
            termios.tcsetwinsize(slave, tuple(size))
            argv = ["setsid", "--ctty", "--wait", *argv]
            self._process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd="/")
            os.close(slave)
            self._input, outputs = os.dup(master), {"out": master}
        else:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/")
            streams = (self._process.stdin, self._process.stdout, self._process.stderr)
            self._input, out, error = (os.dup(stream.fileno()) for stream in streams if stream)
            for stream in streams:
                if stream:
                    stream.close()
            outputs = {"out": out, "err": error}
        pumps = [threading.Thread(target=self._pump, args=each, daemon=True) for each in outputs.items()]
        threading.Thread(target=self._finish, args=(pumps,), daemon=True).start()

    def feed(self, data: bytes) -> None:
        """Give the command input, or the end of it."""
        with suppress(OSError):
            if not data:
                os.close(self._input)
            while data:
                data = data[os.write(self._input, data) :]

    def end(self) -> None:
        """Kill it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def _pump(self, name: str, descriptor: int) -> None:
        # A terminal without a process reads as an error.
        with suppress(OSError):
            while data := os.read(descriptor, CHUNK):
                self._port.send(token=self.token, **{name: base64.b64encode(data).decode()})
        os.close(descriptor)

    def _finish(self, pumps: list[threading.Thread]) -> None:
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        status = self._process.wait()
        self._port.send(token=self.token, exit=status if status >= 0 else 128 - status)


def main() -> None:
    """Serve every port whose name begins with ``lab.``; does not return."""
    names = sorted(PORTS.glob("*/name"))
    devices = [Path("/dev") / name.parent.name for name in names if name.read_text().startswith("lab.")]
    for device in devices:
        threading.Thread(target=Port(os.open(device, os.O_RDWR | os.O_NONBLOCK)).serve).start()
