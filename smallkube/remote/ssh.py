"""SSH to one node, over Fabric: exactly the host key in keys/hosts/ is accepted, and no other is ever added."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain
from secrets import token_hex
from typing import TypeVar

import fabric
import paramiko

from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.remote.host import Command, Connect, Host, Streams, login_line
from smallkube.remote.identities import Identities
from smallkube.remote.openssh import CONNECT_SECONDS, Route, Wire
from smallkube.remote.transport import Transport
from smallkube.secrets import host_keys

KEEPALIVE_SECONDS = 15
SILENCE_SECONDS = 60
"""A connection on which nothing was acknowledged for so long is lost."""
ANSWER_SECONDS = 3
"""A connection that has waited for work is given up when the machine is silent on it for so long."""
UNEXPECTED = "the other end sent what is not SSH"
"""Paramiko (5.0) then raises what comes of reading it."""
_SUDO_REFUSED = 1
"""sudo's exit status when it does not run the command (sudo(8), "Exit value"); the command's own may be the same."""
HANDSHAKES = 32
"""Connections that are made at a time: each costs processor time here, unlike one that a machine does not answer."""
_handshaking = threading.BoundedSemaphore(HANDSHAKES)
JUMPS = 8
"""The same through jump hosts: sshd drops some of more than ten that have not logged in (MaxStartups)."""
_jumping = threading.BoundedSemaphore(JUMPS)
_CHUNK = 1 << 16
_WINDOW = 1 << 20
"""Bytes that a machine may be ahead of us: paramiko holds them, and moves all of them for each piece that is read."""
_POLL_SECONDS = 1.0
_MAX_NOISE = 1 << 20
"""What a login shell may print by itself, in bytes."""

# Its threads log the tracebacks of faults that also reach us as exceptions; unhandled, they land on standard error.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

T = TypeVar("T")


class SshHost(Host):
    """A node over SSH; ``where`` has its address."""

    def __init__(self, workspace: Workspace, node: Node) -> None:
        with _handshaking:
            self._route = Route.to(node)
        super().__init__(node, f"{node.name} ({self._route})")
        known, own_key = host_keys.read_host_key(workspace, node.name), workspace.state_dir / "ssh_key"
        if known is None:
            raise UsageError("no host key is known", where=node.name, hint=f"run `inv keys.scan --node {node.name}`")
        self._expected = paramiko.Ed25519Key(data=known.wire)
        self._identities = Identities(self._route, own_key if own_key.is_file() else None, self.error)
        self._wire: Wire | None = None
        self._fabric = fabric.Connection(
            self._route.hostname,
            user=node.ssh.user,
            port=node.ssh.port,
            config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
            connect_timeout=self._route.seconds,
        )
        self._fabric.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        port = node.ssh.port
        name = self._fabric.host if port == paramiko.config.SSH_PORT else f"[{self._fabric.host}]:{port}"
        self._fabric.client.get_host_keys().add(name, self._expected.get_name(), self._expected)

    def open(self) -> None:
        """Connect and authenticate; nothing is sent before the host key was found to be the expected one."""
        try:
            with _jumping if self._route.through else nullcontext():
                self._wire = self._route.dial()
                with _handshaking:
                    self._shake_hands(self._wire)
        except BaseException as error:
            refused = self._refused(error)
            self.close()
            if refused:
                raise refused from error
            raise
        self._fabric.transport.set_keepalive(KEEPALIVE_SECONDS)
        wire = self._fabric.transport.sock
        if wire.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)

    def _shake_hands(self, wire: Wire) -> None:
        self._fabric.connect_kwargs = {
            "sock": wire.socket,
            "auth_strategy": self._identities,
            "banner_timeout": self._route.seconds,
            "transport_factory": Transport,
        }
        self._fabric.open()

    def _refused(self, error: BaseException) -> SmallkubeError | None:
        """Why there is no connection; None for a fault that is not the connection's."""
        match error:
            case paramiko.BadHostKeyException():
                name = self.node.name
                keys = f"offered {error.key.fingerprint}, expected {self._expected.fingerprint} (keys/hosts/{name}.pub)"
                hint = f"if the machine was reinstalled: inv keys.scan --node {name} --replace"
                return self.error(f"host key differs: {keys}; nothing was sent", hint)
            case paramiko.SSHException() | OSError() | EOFError():
                if self._wire and (why := self._wire.reason):
                    reason = f"no way through {self._route.through}: {why}; nothing was sent"
                    return self.error(reason, "try it with ssh")
                if isinstance(error, paramiko.SSHException):
                    return self.error(f"no SSH connection: {_reason(error)}")
                return self.error(f"can't be reached: {_reason(error)}", "is the machine up, and ssh.host right?")
            case _ if isinstance(error, MALFORMED):
                return self.error(f"no SSH connection: {UNEXPECTED} ({error})")
        return None

    def close(self) -> None:
        """Disconnect; what was started detached on the machine goes on."""
        self._fabric.close()
        self._fabric.client.close()  # Fabric's own leaves a connection open that failed to authenticate
        if self._wire:
            self._wire.close()

    @property
    def is_connected(self) -> bool:
        transport = self._fabric.transport
        return transport is not None and transport.is_active()

    def answers(self) -> bool:
        """Asks for the beginning of a session, with which nothing runs there yet."""
        try:
            if (transport := self._fabric.transport) is None:
                return False
            transport.open_session(timeout=ANSWER_SECONDS).close()
            return True
        except (paramiko.SSHException, OSError, EOFError):
            return False

    def open_channel(self, target: tuple[str, int]) -> paramiko.Channel:
        """A connection from the machine to ``target``, an address and a port (RFC 4254, 7.2). Raises SmallkubeError."""
        named = f"{f'[{target[0]}]' if ':' in target[0] else target[0]}:{target[1]}"
        try:
            if (transport := self._fabric.transport) is None:
                raise EOFError("not connected")
            source = ("127.0.0.1", 0)
            channel: paramiko.Channel = transport.open_channel("direct-tcpip", target, source, timeout=CONNECT_SECONDS)
            return channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            hint = "does something listen there, and does sshd allow it (AllowTcpForwarding)?"
            raise self.error(f"does not connect us to {named}: {_reason(error)}", hint) from error

    def _run(self, streams: Streams) -> int:
        """Raises UsageError when sudo wants a password."""
        transport, command = self._fabric.transport, streams.command
        name = command.name
        try:
            if transport is None:
                raise EOFError("not connected")
            with transport.open_session(_WINDOW, timeout=CONNECT_SECONDS) as channel:
                marker = token_hex(8)
                script = command.script(self.node.ssh.become, marker)
                channel.exec_command(login_line(len(script)))
                status = _Exchange(channel, streams, script, marker).status()
        except InterruptedError as error:
            raise self.error(f"interrupted while {name} ran") from error
        except TimeoutError as error:
            raise self.error(f"{name}: {error}") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self.error(f"connection lost while {name} ran: {str(error) or 'closed'}") from error
        except MALFORMED as error:
            if transport is None or transport.is_active():
                raise
            raise self.error(f"connection lost while {name} ran: {UNEXPECTED} ({error})") from error
        if status == _SUDO_REFUSED and not self._becomes_root(command):
            raise self.error(
                f"{self.node.ssh.user} may not use sudo without a password",
                f"allow it on the machine (NOPASSWD for {self.node.ssh.user}), or connect as root",
                usage=True,
            )
        return status

    def _becomes_root(self, command: Command) -> bool:
        """Whether ``command`` needs no sudo, or sudo asks for no password; its messages differ between versions."""
        if self.node.ssh.become == "none" or not command.root:
            return True
        return self.run(Command(("sudo", "-n", "--", "true"), root=False)).ok


class _Exchange:
    """All three streams of one command at once, so that neither side can block the other by filling a window.

    It is given up after ``command.timeout`` seconds without activity on any stream. ``script`` goes before the
    command's standard input. What comes before the line ``marker``, on either stream, is what the login shell prints
    by itself; without that line, all is.
    """

    def __init__(self, channel: paramiko.Channel, streams: Streams, script: bytes, marker: str) -> None:
        self.channel, self.command, self.streams = channel, streams.command, streams
        self._script, self._marker = script, f"{marker}\n".encode()
        self._active = time.monotonic()
        self._deadline = self._active + self.command.total_timeout
        channel.settimeout(min(self.command.timeout, _POLL_SECONDS))

    def status(self) -> int:
        """Its exit status, once it has ended and all output was read.

        Raises TimeoutError, InterruptedError (``stopped`` was true), EOFError or another OSError without one, and
        whatever ``Streams.stdout`` raised.
        """
        reader = threading.Thread(target=self._read_errors, daemon=True)
        reader.start()
        threading.Thread(target=self._write_input, daemon=True).start()
        self._read(self.channel.recv, self.streams.stdout)
        reader.join()
        self._patiently(self._ended)
        status = self.channel.recv_exit_status()
        if status < 0:
            raise EOFError("closed before the command ended")
        return status

    def _ended(self) -> None:
        if not self.channel.status_event.wait(_POLL_SECONDS):
            raise TimeoutError

    def _read_errors(self) -> None:
        with suppress(OSError):  # status() meets the same fault
            self._read(self.channel.recv_stderr, self.streams.stderr)

    def _read(self, receive: Callable[[int], bytes], on_data: Callable[[bytes], object]) -> None:
        pieces = iter(lambda: self._patiently(partial(receive, _CHUNK)), b"")
        begin = b""
        for data in pieces:
            begin += data
            if self._marker in begin:
                begin = begin.partition(self._marker)[2]
                break
            if len(begin) > _MAX_NOISE:
                raise TimeoutError(f"the login shell printed {len(begin) >> 10} KiB before it ran a command")
        for data in filter(None, chain([begin], pieces)):
            on_data(data)

    def _write_input(self) -> None:
        # It may end without reading all; status() meets any other fault too.
        with suppress(OSError, EOFError, ValueError, paramiko.SSHException):
            self._send(self._script)
            for data in self.streams.stdin():
                self._send(data)
            if not self.command.hold:
                self.channel.shutdown_write()

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            sent = self._patiently(partial(self.channel.send, bytes(left[:_CHUNK])))
            if not sent:
                raise EOFError("closed")
            left = left[sent:]

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


def connector(workspace: Workspace) -> Connect:
    """Connections as the inventory and keys/hosts say."""
    return lambda node: SshHost(workspace, node)


def _reason(error: Exception) -> str:
    silent = "connection closed" if isinstance(error, EOFError) else type(error).__name__
    return getattr(error, "strerror", None) or str(error) or silent
