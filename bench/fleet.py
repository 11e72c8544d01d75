"""Up to 254 machines on this one: an sshd with an address, a host key and folders of its own for each.

They are in namespaces for network, mounts and processes that are made for them, so that nothing of this machine's own
is changed; what asks them runs in the same ones. A machine is no NixOS: it has this machine's programs but Nix, and
neither systemd nor a journal. What a task writes there is in memory (tmpfs).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness import INV, Row, absent, command
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory.releases import RELEASES
from smallkube.secrets import host_keys
from tests.integration.sshd import SSHD, make_key

MOST = 254
_SCRIPT = Path(__file__).with_suffix(".sh")
_CONFIG = """Port 22
PidFile none
UsePAM no
StrictModes no
AuthorizedKeysFile /run/sshd/user.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
"""
_LAUNCH = """
import json, os, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[2:])
seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
os.write(int(sys.argv[1]), json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]).encode())
sys.exit(abs(done.returncode))
"""
"""A small process in between: what a new process has as its greatest memory begins with that of the one it is from."""


@dataclass(frozen=True)
class Usage:
    """What a command took: ``processor`` in seconds, of all its processes, and ``kib`` of its largest one."""

    seconds: float
    processor: float
    kib: int


@dataclass(frozen=True)
class Fleet:
    """``pid``: a process in its namespaces."""

    folder: Path
    count: int
    pid: int

    @property
    def key(self) -> Path:
        """The private key that every machine accepts for root."""
        return self.folder / "user"

    def address(self, number: int) -> str:
        return f"127.88.0.{number}"

    def workspace(self, nodes: int) -> Workspace:
        """A workspace whose nodes are the first so many machines, with all its secrets, and rendered."""
        workspace = Workspace(self.folder / f"workspace{nodes}")
        if workspace.root.exists():
            return workspace
        release = max(RELEASES)
        lines = [f'cluster: {{name: bench, nixos: "{release}", kubernetes: "{RELEASES[release]}"}}', "nodes:"]
        workspace.hosts_keys_dir.mkdir(parents=True)
        for number in range(1, nodes + 1):
            ssh = f"ssh: {{host: {self.address(number)}}}"
            lines.append(f"  node{number}: {{peer_ip: 192.0.2.{number}, {ssh}}}")
            shutil.copy(self.folder / "keys" / f"node{number}.pub", workspace.hosts_keys_dir)
        workspace.inventory_file.write_text("\n".join(lines) + "\n")
        workspace.state_dir.mkdir()
        shutil.copy(self.key, workspace.state_dir / "ssh_key")
        for task in ("keys.generate", "nix.render"):
            command([INV, task], cwd=REPOSITORY, env=self.environment(workspace))()
        return workspace

    def environment(self, workspace: Workspace) -> dict[str, str]:
        return {**os.environ, "SMALLKUBE_WORKSPACE": str(workspace.root), "COLUMNS": "200"}

    def run(
        self,
        argv: Sequence[str | Path],
        environment: Mapping[str, str],
        statuses: Collection[int] = (0,),
        cwd: Path = REPOSITORY,
    ) -> tuple[Usage, str]:
        """Run ``argv`` where the machines can be reached: what it took, and all it printed.

        Raises SmallkubeError when it ends otherwise than with one of ``statuses``.
        """
        ours, theirs = os.pipe()
        inside = ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wdns={cwd}"]
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(theirs)]
        with os.fdopen(ours, "rb") as answer:
            done = subprocess.run(
                [*inside, *launch, *map(str, argv)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[theirs],
                check=False,
            )
            os.close(theirs)
            if done.returncode not in statuses:
                last = (done.stdout.strip().splitlines() or ["no message"])[-1]
                raise SmallkubeError(f"exit status {done.returncode}: {last}", where=str(argv[0]))
            return Usage(*json.loads(answer.read())), done.stdout

    @property
    def _machines(self) -> Path:
        """Their folders, as they see them."""
        return Path(f"/proc/{self.pid}/root{self.folder}/machines")

    def logins(self, hosts: int) -> list[int]:
        """How often someone has logged in to each of the first so many machines."""
        logs = [self._machines / str(number) / "run/sshd/log" for number in range(1, hosts + 1)]
        return [log.read_text().count("Accepted publickey") for log in logs]

    def find(self, pattern: str) -> list[Path]:
        """Files of the machines."""
        return list(self._machines.glob(f"*/{pattern}"))

    def clean(self) -> None:
        """Remove what was written to the machines."""
        for path in (path for folder in ("lib", "root", "tmp") for path in self.find(f"{folder}/*")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def row(work: str, hosts: int, ours: Sequence[Usage], against: str = "", theirs: Sequence[Usage] = ()) -> Row:
    """The medians of what was taken on ``hosts`` machines, alternately where there are two sides."""
    sides = [side for side in (ours, theirs) if side]
    seconds = [[usage.seconds for usage in side] for side in sides]
    medians = [statistics.median(taken) for taken in seconds]
    return Row(
        work,
        medians[0],
        against,
        medians[1] if theirs else None,
        "",
        tuple((min(taken), max(taken)) for taken in seconds),
        statistics.median(mine / other for mine, other in zip(seconds[0], seconds[-1], strict=False)),
        min(map(len, sides)),
        hosts,
        tuple(statistics.median(usage.processor for usage in side) for side in sides),
        tuple(statistics.median(usage.kib for usage in side) / 1024 for side in sides),
    )


def unavailable(work: str) -> bool:
    """Whether ``work`` can't be measured, because a program or root's rights are not there; says so."""
    if absent(work, INV, "ssh", "ssh-keygen", "nsenter", "unshare", "ip", SSHD):
        return True
    if os.geteuid():
        ui.warn(f"{work} is not measured: only root can make machines in namespaces")
    return os.geteuid() != 0


@contextmanager
def running(count: int) -> Iterator[Fleet]:
    """``count`` machines, until the block ends or this process does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").mkdir()
        (folder / "machines").mkdir()
        make_key(folder / "user")
        (folder / "sshd_config").write_text(_CONFIG)
        for number in range(1, count + 1):
            private, public = host_keys.make()
            (folder / "keys" / f"node{number}").write_bytes(private)
            (folder / "keys" / f"node{number}").chmod(0o600)
            (folder / "keys" / f"node{number}.pub").write_text(f"{public}\n")
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", str(_SCRIPT), name, str(count), SSHD]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdin and process.stdout and process.stderr
            if process.stdout.readline() != "ready\n":
                raise SmallkubeError(f"the machines do not start: {process.stderr.read().strip()}")
            try:
                yield Fleet(folder, count, process.pid)
            finally:
                process.stdin.close()
