"""A real OpenSSH server on loopback, with throw-away keys, and a workspace that knows its host key."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node, Ssh
from smallkube.remote.ssh import SshHost

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair; the private half's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """sshd in the foreground; ``log`` is what it reports, and what a client managed to do."""

    folder: Path
    port: int = field(default_factory=free_port)
    kind: str = "ed25519"
    sftp: str = "internal-sftp"
    pid: int = 0

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def host_key(self) -> Path:
        return self.folder / "host"

    @contextmanager
    def running(self, settings: str = "") -> Iterator["Server"]:
        """``settings`` come before our own, so that they win (sshd_config(5))."""
        self.folder.mkdir()
        make_key(self.host_key, self.kind)
        make_key(self.folder / "user")
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        (self.folder / "config").write_text(
            f"{settings}Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\nPermitUserEnvironment yes\nLogLevel VERBOSE\n"
            f"Subsystem sftp {self.sftp}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        argv = [SSHD, "-D", "-e", "-f", str(self.folder / "config")]
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.pid = process.pid
        try:
            self.await_log("Server listening")
            yield self
        finally:
            process.terminate()
            process.wait(timeout=10)

    def await_log(self, pattern: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.log):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def kill_sessions(self) -> None:
        """Cut every connection that clients have."""
        tree = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True).stdout
        rows = [line.split(None, 2) for line in tree.splitlines()]
        ours = {self.pid}
        for _ in range(3):  # the process for each connection, and the one of its user
            ours |= {int(pid) for pid, parent, name in rows if int(parent) in ours and name.startswith("sshd")}
        for pid in ours - {self.pid}:
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Bench:
    """A server, and a workspace whose node1 is it."""

    server: Server
    workspace: Workspace

    @property
    def known(self) -> Path:
        return self.workspace.hosts_keys_dir / "node1.pub"

    @property
    def own_key(self) -> Path:
        return self.workspace.state_dir / "ssh_key"

    def node(self, **ssh: object) -> Node:
        values = {"host": "127.0.0.1", "port": self.server.port, "user": os.environ.get("USER", "root"), **ssh}
        return Node(name="node1", index=1, peer_ip="192.168.0.1", ssh=Ssh.model_validate(values))

    def session(self, **ssh: object) -> SshHost:
        return SshHost(self.workspace, self.node(**ssh))


Require = Callable[[str, object, str], None]
