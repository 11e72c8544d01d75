"""The way to a machine as OpenSSH has it: ``ssh -G`` reads the configuration, ``ssh`` itself passes jump hosts."""

import os
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from smallkube.core import process
from smallkube.core.errors import UsageError, split_lines
from smallkube.inventory.models import Node, Ssh

CONNECT_SECONDS = 10
"""Time limit for what a server says first, where the configuration has no ConnectTimeout."""
SILENT_SECONDS = 3
"""The same for the answer of a machine's kernel: Linux asks it again after one second, and after another two."""
BATCH = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
"""Ask nothing, and give up a connection that is silent for a minute (ssh_config(5))."""
_AGENT = ("SSH_AUTH_SOCK", "USER", "SHELL")
"""``Match exec`` may ask the agent."""


@dataclass(frozen=True)
class Route:
    """What the configuration says about one machine; the name, user and port are the inventory's.

    ``options``: keyword in lower case → its values, as ``ssh -G`` prints them, tokens such as %h not yet replaced.
    """

    ssh: Ssh
    options: dict[str, list[str]]

    @classmethod
    def to(cls, node: Node) -> Self:
        """Raises UsageError when there is no ssh, or it can't read its configuration."""
        ssh = node.ssh
        argv = ["ssh", "-G", "-T", "-l", ssh.user, "-p", str(ssh.port), "--", ssh.host]
        agent = {name: os.environ[name] for name in _AGENT if name in os.environ}
        try:
            done = process.run(argv, environment=agent, timeout=2 * CONNECT_SECONDS)
        except process.NotStarted as error:
            raise UsageError("ssh is not installed", hint="apt-get install openssh-client") from error
        if not done.ok:
            reason = next(iter(done.stderr.splitlines()), "no answer")
            raise UsageError(f"ssh can't read its configuration: {reason}", where=ssh.host)
        options: dict[str, list[str]] = {}
        for line in split_lines(done.stdout):
            keyword, _, value = line.partition(" ")
            options.setdefault(keyword.lower(), []).append(value)
        return cls(ssh, options)

    def option(self, keyword: str) -> str:
        """The first value, with its tokens replaced; empty where there is none or it is ``none``."""
        value = next(iter(self.options.get(keyword, [])), "none")
        return "" if value.lower() == "none" else self.expanded(value)

    def expanded(self, value: str) -> str:
        """``value`` with the tokens replaced that stand for the machine and for us (ssh_config(5), TOKENS)."""
        own = {"d": str(Path.home()), "u": os.environ.get("USER", ""), "i": str(os.getuid())}
        machine = {"h": self.hostname, "n": self.ssh.host, "p": str(self.ssh.port), "r": self.ssh.user}
        tokens = {"%": "%", **machine, **own}
        return re.sub("%(.)", lambda found: tokens.get(found[1], found[0]), value)

    @property
    def hostname(self) -> str:
        return next(iter(self.options.get("hostname", [])), self.ssh.host)

    @property
    def seconds(self) -> int:
        """The time limit for connecting."""
        value = self.option("connecttimeout")
        return int(value) if value.isdigit() else CONNECT_SECONDS

    @property
    def through(self) -> str:
        """The jump hosts, or the program, that the connection goes through; empty for a direct one."""
        return self.option("proxyjump") or self.option("proxycommand")

    def __str__(self) -> str:
        host = f"[{self.ssh.host}]" if ":" in self.ssh.host else self.ssh.host
        return f"{self.ssh.user}@{host}:{self.ssh.port}" + (f" through {self.through}" if self.through else "")

    def dial(self, seconds: float = 0) -> "Wire":
        """A connection to the machine's SSH server, within ``seconds`` instead of the usual limit. Raises OSError."""
        silent = seconds or (self.seconds if self.option("connecttimeout") else SILENT_SECONDS)
        seconds = seconds or self.seconds
        if jumps := self.option("proxyjump"):
            *before, last = [jump if jump.startswith("ssh://") else f"ssh://{jump}" for jump in jumps.split(",")]
            target = f"[{self.hostname}]:{self.ssh.port}"
            limit = ["-o", f"ConnectTimeout={seconds:.0f}"]
            return Wire.of(["ssh", *BATCH, *limit, *(["-J", ",".join(before)] if before else []), "-W", target, last])
        if command := self.option("proxycommand"):
            return Wire.of([os.environ.get("SHELL", "/bin/sh"), "-c", f"exec {command}"])
        source = self.option("bindaddress")
        address = (source, 0) if source else None
        wire = socket.create_connection((self.hostname, self.ssh.port), silent, address)
        # A request is several packets: the last would else wait for the server's delayed acknowledgement, 40 ms.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Wire(wire)


def sftp(user: str, host: str, port: int, *options: str) -> "Wire":
    """OpenSSH's own connection to the SFTP server of ``host``. Raises OSError."""
    limit = ("-o", f"ConnectTimeout={CONNECT_SECONDS}")
    return Wire.of(["ssh", *BATCH, *limit, *options, "-l", user, "-p", str(port), "-s", "--", host, "sftp"])


@dataclass
class Wire:
    """Bytes to and from a server; where a program carries them, ``errors`` is what it prints to standard error."""

    socket: socket.socket
    program: "subprocess.Popen[bytes] | None" = None
    errors: IO[bytes] | None = None

    @classmethod
    def of(cls, argv: Sequence[str]) -> Self:
        """Start ``argv`` with the other end as its standard input and output. Without a terminal it can't ask."""
        ours, theirs = socket.socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the wire
        with theirs:
            try:
                program = subprocess.Popen(
                    argv,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=errors,
                    start_new_session=True,
                    env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
                )
            except OSError:
                ours.close()
                errors.close()
                raise
        return cls(ours, program, errors)

    @property
    def reason(self) -> str:
        """The last line of what the program has printed, once it has ended; empty for a direct connection."""
        if self.program is None or self.errors is None:
            return ""
        try:
            self.program.wait(1)
        except subprocess.TimeoutExpired:
            return ""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"{shlex.join(self.program.args)} ended"  # type: ignore[arg-type]

    def close(self) -> None:
        self.socket.close()
        if self.program:
            try:
                self.program.wait(1)
            except subprocess.TimeoutExpired:
                self.program.kill()
                self.program.wait()
        if self.errors:
            self.errors.close()
