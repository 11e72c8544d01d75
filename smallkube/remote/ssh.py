"""SSH to one node, over Fabric: exactly the host key in keys/hosts/ is accepted, and no other is ever added."""

import logging
import socket
from typing import Any

import fabric
import paramiko

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.remote.command import Command, OutputLimitError, Result, Streams
from smallkube.remote.host import Connect, Host
from smallkube.remote.streams import ChannelStreams
from smallkube.secrets import host_keys

CONNECT_SECONDS = 10
KEEPALIVE_SECONDS = 15
SILENCE_SECONDS = 60
"""A connection on which nothing was acknowledged for so long is lost."""
_SUDO_REFUSED = 1
"""sudo's exit status when it does not run the command (sudo(8), "Exit value"); the command's own may be the same."""

# Its threads log the tracebacks of faults that also reach us as exceptions; unhandled, they land on standard error.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class UnknownHostKeyError(paramiko.SSHException):
    """A machine shows a host key, and none is known of it; its text is the machine's name."""


class RefuseUnknown(paramiko.MissingHostKeyPolicy):
    """paramiko's RejectPolicy, but with an error of its own type."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise UnknownHostKeyError(hostname)


class SshHost(Host):
    """A node over SSH; ``where`` has its address."""

    def __init__(self, workspace: Workspace, node: Node) -> None:
        super().__init__(node, f"{node.name} ({node.ssh.user}@{node.ssh.host}:{node.ssh.port})")
        self._expected = _host_key(workspace, node)
        own_key = workspace.state_dir / "ssh_key"
        options: dict[str, object] = {}
        if own_key.is_file():
            options = {"key_filename": [str(own_key)], "allow_agent": False, "look_for_keys": False}
        self._fabric = fabric.Connection(
            node.ssh.host,
            user=node.ssh.user,
            port=node.ssh.port,
            connect_timeout=CONNECT_SECONDS,
            connect_kwargs={
                **options,
                "banner_timeout": CONNECT_SECONDS,
                "auth_timeout": CONNECT_SECONDS,
                "transport_factory": transport,
            },
        )
        _refuse_unknown_keys(self._fabric)
        names = self._fabric.client.get_host_keys()
        names.clear()
        port = int(self._fabric.port)
        name = self._fabric.host if port == paramiko.config.SSH_PORT else f"[{self._fabric.host}]:{port}"
        names.add(name, self._expected.get_name(), self._expected)

    def open(self) -> None:
        """Connect and authenticate; nothing is sent before the host key was found to be the expected one."""
        try:
            self._authenticate()
        except BaseException:
            self.close()
            raise
        self._fabric.transport.set_keepalive(KEEPALIVE_SECONDS)
        wire = self._fabric.transport.sock
        if isinstance(wire, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)

    def _authenticate(self) -> None:
        try:
            self._fabric.open()
        except paramiko.BadHostKeyException as error:
            raise self._wrong_key(error.key) from error
        except paramiko.PasswordRequiredException as error:
            raise self.error("the SSH key has a passphrase", "load it into ssh-agent (ssh-add)") from error
        except paramiko.AuthenticationException as error:
            hint = f"let your SSH key in for {self.node.ssh.user}"
            raise self.error("the machine does not accept our SSH key", hint) from error
        except UnknownHostKeyError as error:
            # The key of the node itself is always known: see __init__.
            hint = "compare it, then add it to ~/.ssh/known_hosts"
            raise self.error(f"the host key of the jump host {error} is not known; nothing was sent", hint) from error
        except paramiko.SSHException as error:
            raise self.error(f"no SSH connection: {str(error) or type(error).__name__}") from error
        except (OSError, EOFError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "connection closed"
            raise self.error(f"can't be reached: {reason}", "is the machine up, and ssh.host right?") from error

    def close(self) -> None:
        """Disconnect; what was started detached on the machine goes on."""
        self._fabric.close()
        self._fabric.client.close()  # Fabric's own leaves a connection open that failed to authenticate

    def _run(self, command: Command, streams: Streams) -> Result:
        """Raises UsageError when sudo wants a password."""
        try:
            result = self._exchange(command, streams)
        except InterruptedError as error:
            raise self.error(f"interrupted while {command.name} ran") from error
        except TimeoutError as error:
            raise self.error(f"{command.name}: {error}") from error
        except OutputLimitError as error:
            raise self.error(f"{command.name} printed more than {command.limit >> 20} MiB") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self.error(f"connection lost while {command.name} ran: {str(error) or 'closed'}") from error
        if result.status == _SUDO_REFUSED and not self._becomes_root(command):
            raise self.error(
                f"{self.node.ssh.user} may not use sudo without a password",
                f"allow it on the machine (NOPASSWD for {self.node.ssh.user}), or connect as root",
                usage=True,
            )
        return result

    def _exchange(self, command: Command, streams: Streams) -> Result:
        transport = self._fabric.transport
        if transport is None:
            raise EOFError("not connected")
        with transport.open_session(timeout=CONNECT_SECONDS) as channel:
            channel.exec_command(command.line(self.node.ssh.become))
            return ChannelStreams(channel, command, streams).result()

    def _wrong_key(self, offered: paramiko.PKey) -> SmallkubeError:
        return self.error(
            f"host key differs: offered {offered.fingerprint}, expected {self._expected.fingerprint}"
            f" (keys/hosts/{self.node.name}.pub); nothing was sent",
            f"if the machine was reinstalled: inv keys.scan --node {self.node.name} --replace",
        )

    def _becomes_root(self, command: Command) -> bool:
        """Whether ``command`` needs no sudo, or sudo asks for no password; its messages differ between versions."""
        if self.node.ssh.become == "none" or not command.root:
            return True
        return self.run(Command(("sudo", "-n", "--", "true"), root=False)).ok


def connector(workspace: Workspace) -> Connect:
    """Connections as the inventory and keys/hosts say."""
    return lambda node: SshHost(workspace, node)


def transport(wire: socket.socket, **options: Any) -> paramiko.Transport:
    """AES-GCM first: twice as fast here as paramiko's own first choice, which needs a MAC beside the cipher."""
    made = paramiko.Transport(wire, **options)
    security = made.get_security_options()
    security.ciphers = sorted(security.ciphers, key=lambda name: "gcm" not in name)
    return made


def _host_key(workspace: Workspace, node: Node) -> paramiko.PKey:
    key = host_keys.read_host_key(workspace, node.name)
    if key is None:
        raise UsageError("no host key is known", where=node.name, hint=f"run `inv keys.scan --node {node.name}`")
    return paramiko.Ed25519Key(data=key.wire)


def _refuse_unknown_keys(connection: fabric.Connection) -> None:
    """Fabric accepts any host key by default, and builds jump hosts as plain connections that do so too."""
    connection.client.set_missing_host_key_policy(RefuseUnknown())
    gateway = connection.gateway
    if isinstance(gateway, fabric.Connection):
        _refuse_unknown_keys(gateway)
        gateway.client.load_system_host_keys()
