"""One machine of a lab, whatever it is made of: its files, the way to its sshd, and how commands run on it.

``lab/nspawn.py`` and ``lab/qemu.py`` have the two kinds.
"""

import json
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from lab import installed, network, processes
from lab.command import run
from lab.removal import remove_tree
from smallkube.core.errors import SmallkubeError
from smallkube.core.files import write_file

PROXY = "/lib/systemd/systemd-socket-proxyd"
HUB = "hub"
CLEAN_ENVIRONMENT = ("env", "-i", "HOME=/root", "LANG=C.UTF-8", f"PATH={processes.PATH}:/run/current-system/sw/bin")


def collection() -> list[str]:
    """GOGC of this command, as VARIABLE=VALUE: how often programs in Go collect garbage; [] where it is not set."""
    return [f"GOGC={value}"] if (value := os.environ.get("GOGC")) else []


@dataclass(frozen=True)
class Result:
    """What a command on a machine gave."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Machine(ABC):
    """Machine ``index`` of the lab kept in folder ``lab``, which has ``number``."""

    FOLDERS: ClassVar[Sequence[str]] = ()
    """Of a machine of this kind, besides ``upper``: its own files, over those that all machines have."""
    HARDWARE: ClassVar[str]
    """What nixos-generate-config would find of it, as lines of Nix."""
    BOOT_SECONDS: ClassVar[float] = 120
    SSH_SECONDS: ClassVar[float] = 2
    """Within which the SSH server of a machine that is up answers."""

    lab: Path
    number: int
    index: int

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def folder(self) -> Path:
        return self.lab / "nodes" / self.name

    @property
    def console(self) -> Path:
        """What the machine printed on its console."""
        return self.folder / "console.log"

    @property
    def host_key(self) -> str:
        """The machine's SSH host public key, as a line of OpenSSH."""
        return (self.folder / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text().strip()

    @property
    def _role(self) -> str:
        return f"machine {self.name}"

    @property
    def _proxy_role(self) -> str:
        return f"proxy {self.name}"

    def create(self, authorized_key: str) -> None:
        """Make the machine's disk, with host keys of its own and ``authorized_key`` let in (as root and as admin)."""
        remove_tree(self.folder)
        upper = self.folder / "upper"
        for name in (*self.FOLDERS, "upper/etc/ssh"):
            (self.folder / name).mkdir(parents=True)
        for folder in (self.folder, *self.folder.rglob("*")):
            folder.chmod(0o755)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{self.name}",
             "-f", upper / "etc/ssh/ssh_host_ed25519_key"])  # fmt: skip
        write_file(upper / "etc/systemd/network/05-lab.network", network.network_file(self.index))
        write_file(upper / "etc/hostname", f"{self.name}\n")
        write_file(upper / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.0.2 {self.name}\n")
        for file, text in installed.files(self.name, self.HARDWARE).items():
            write_file(upper / "etc" / file, text)
        for home, user in (("root", 0), ("home/admin", 1000)):
            keys = upper / home / ".ssh/authorized_keys"
            write_file(keys, f"{authorized_key}\n", 0o600)
            for path, mode in ((keys.parent.parent, 0o700), (keys.parent, 0o700), (keys, 0o600)):
                path.chmod(mode)
                os.chown(path, user, user)

    def start(self, lower: Sequence[Path]) -> None:
        """Start the machine over ``lower`` (see ``Lab.start_layers``) and wait until its sshd answers.

        Raises SmallkubeError with the console's last line when it does not come up.
        """
        if not self.running:
            hub = processes.find(self.lab, HUB)
            if not hub:
                raise SmallkubeError("the lab's network is not there", where=self.name, hint="inv lab.up")
            argv = ["nsenter", f"--net=/proc/{hub[0].pid}/ns/net", *self._program(lower)]
            processes.spawn(argv, self.lab, self._role, self.console)
        self._open_proxy()
        self._await_ssh(self.BOOT_SECONDS)

    @abstractmethod
    def _program(self, lower: Sequence[Path]) -> list[object]:
        """The command line that becomes the machine, in the lab's network namespace."""

    def _open_proxy(self) -> None:
        if processes.find(self.lab, self._proxy_role):
            return
        hub = processes.find(self.lab, HUB)[0]
        with network.listener(self.number, self.index) as listening:
            target = f"{network.peer_address(self.index)}:22"
            argv = ["nsenter", f"--net=/proc/{hub.pid}/ns/net", PROXY, target]
            processes.spawn(argv, self.lab, self._proxy_role, self.lab / "proxy.log", listening)

    def _await_ssh(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not network.ssh_answers(self.number, self.index, seconds=self.SSH_SECONDS):
            if not processes.find(self.lab, self._role) or time.monotonic() > deadline:
                lines = self.console.read_text(errors="replace").split("\n") if self.console.exists() else []
                lines = [line.strip() for line in lines if line.strip()] or ["nothing"]
                raise SmallkubeError(f"did not start: {lines[-1]}", where=self.name, hint=self._hint())
            time.sleep(0.05)

    def _hint(self) -> str:
        """Where to look when the machine does not start."""
        return f"see {self.console}"

    @property
    @abstractmethod
    def init(self) -> int | None:
        """The process on this machine that is the machine's first, or the whole machine; None when it is off."""

    @property
    def running(self) -> bool:
        return self.init is not None

    @property
    def ssh_reachable(self) -> bool:
        return network.ssh_answers(self.number, self.index, seconds=self.SSH_SECONDS)

    def stop(self, seconds: float = 30) -> None:
        """Shut the machine down in order (what is left after ``seconds`` is cut off)."""
        if self.running:
            self._power_off(seconds)
            deadline = time.monotonic() + seconds
            while self.running and time.monotonic() < deadline:
                time.sleep(0.05)
        self.kill()

    @abstractmethod
    def _power_off(self, seconds: float) -> None:
        """Ask the running machine to shut down, for at most ``seconds``."""

    def kill(self) -> None:
        """Cut the machine's power: its processes end at once, its disk stays as it is."""
        processes.kill(self.lab, self._proxy_role)
        processes.kill(self.lab, self._role)

    def argv(self, command: Sequence[str], *, environment: Sequence[str] = ()) -> list[str]:
        """The command line that runs ``command`` inside the machine, as root.

        Raises SmallkubeError when the machine is off.
        """
        init = self.init
        if init is None:
            raise SmallkubeError("the machine is off", where=self.name, hint="inv lab.up starts it")
        return [*self._enter(init), *CLEAN_ENVIRONMENT, *collection(), *environment, *command]

    @abstractmethod
    def _enter(self, init: int) -> list[str]:
        """The words that run those after them on the machine."""

    def execute(self, command: Sequence[str], *, stdin: str = "", seconds: float = 300) -> Result:
        """Run a command inside the machine as root; its failure is a result, not an error."""
        done = subprocess.run(
            self.argv(command), input=stdin, capture_output=True, text=True, check=False, timeout=seconds
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def check(self, *command: str, stdin: str = "") -> str:
        """Run a command inside the machine and return its output; raises SmallkubeError when it fails."""
        result = self.execute(command, stdin=stdin)
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
            raise SmallkubeError(f"{command[0]} failed with status {result.returncode}: {lines[-1]}", where=self.name)
        return result.stdout

    @abstractmethod
    def put(self, folder: Path, place: str) -> None:
        """Copy ``folder`` to the machine, as ``place`` in one of its volumes; what was there goes.

        Raises SmallkubeError when it fails.
        """

    def report(self) -> dict[str, object]:
        """What of the running configuration the lab can't apply (see lab/node/report.py)."""
        return cast(dict[str, object], json.loads(self.check("lab-report", "--json")))


def needed_here() -> list[str]:
    """The programs a lab needs on this machine and that are missing."""
    names = ("systemd-nspawn", "nsenter", "unshare", "setsid", "ip", "mount", "ssh-keygen", PROXY)
    return [name for name in names if shutil.which(name) is None]
