"""One machine of a lab: a systemd-nspawn container with a disk of its own over the shared image."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lab import cgroups, network, processes
from lab.command import run
from lab.removal import remove_tree
from smallkube.core.errors import SmallkubeError
from smallkube.core.files import write_file

START = Path(__file__).with_name("start-node.sh")
PROXY = "/lib/systemd/systemd-socket-proxyd"
PROPAGATED = Path("/run/systemd/nspawn/propagate")
"""Where systemd-nspawn makes a folder for each machine, which it removes when it ends in order."""
INIT = "/opt/smallkube-lab/bin/init"
HUB = "hub"
INOTIFY = "fs.inotify.max_user_instances"
VOLUMES = ("nix", "var/lib/containers", "var/lib/containerd")
"""Folders that must not be on an overlay: container storage mounts its own, and Nix's database is faster without."""
CLEAN_ENVIRONMENT = ("env", "-i", "HOME=/root", "LANG=C.UTF-8", f"PATH={processes.PATH}:/run/current-system/sw/bin")


@dataclass(frozen=True)
class Result:
    """What a command on a machine gave."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Machine:
    """Machine ``index`` of the lab kept in folder ``lab``, which has ``number``."""

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
    def group(self) -> str:
        """The machine's control group, and its name on this machine.

        Labs in other state folders may have the same name, hence the digest of the folder.
        """
        digest = hashlib.sha256(bytes(self.lab)).hexdigest()[:8]
        return f"smallkube-lab-{self.lab.name}-{digest}-{self.name}"

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
        for name in ("work", "root", *(f"volumes/{volume}" for volume in VOLUMES), "upper/etc/ssh"):
            (self.folder / name).mkdir(parents=True)
        for folder in (self.folder, *self.folder.rglob("*")):
            folder.chmod(0o755)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{self.name}",
             "-f", upper / "etc/ssh/ssh_host_ed25519_key"])  # fmt: skip
        write_file(upper / "etc/systemd/network/05-lab.network", network.network_file(self.index))
        write_file(upper / "etc/hostname", f"{self.name}\n")
        write_file(upper / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.0.2 {self.name}\n")
        for home, user in (("root", 0), ("home/admin", 1000)):
            keys = upper / home / ".ssh/authorized_keys"
            write_file(keys, f"{authorized_key}\n", 0o600)
            for path, mode in ((keys.parent.parent, 0o700), (keys.parent, 0o700), (keys, 0o600)):
                path.chmod(mode)
                os.chown(path, user, user)

    def start(self, lower: Sequence[Path]) -> None:
        """Start the machine over the ``lower`` layers (uppermost first) and wait until its sshd answers.

        Raises SmallkubeError with the console's last line when it does not come up.
        """
        if not self.running:
            hub = processes.find(self.lab, HUB)
            if not hub:
                raise SmallkubeError("the lab's network is not there", where=self.name, hint="inv lab.up")
            groups = [] if cgroups.systemd_is_here() else cgroups.create(self.group)
            apart = ["nsenter", f"--net=/proc/{hub[0].pid}/ns/net", "unshare", "--mount", "--propagation=slave"]
            disk = [
                ":".join(str(layer) for layer in lower),
                *(self.folder / name for name in ("upper", "work", "root")),
            ]
            argv = [*apart, "sh", START, self.group, *disk, ":".join(str(group) for group in groups), *self._nspawn()]
            processes.spawn(argv, self.lab, self._role, self.console)
        self._open_proxy()
        self._await_ssh(seconds=120)

    def _nspawn(self) -> list[str]:
        binds = [f"--bind={self.folder}/volumes/{volume}:/{volume}" for volume in VOLUMES]
        manager = [] if cgroups.systemd_is_here() else ["--keep-unit"]
        return [
            f"--hostname={self.name}",
            "--register=no",
            *manager,
            # Should the supervisor be killed, the machine lives on: this is how it is found then.
            f"--setenv={processes.LAB}={self.lab}",
            f"--setenv={processes.ROLE}={self._role}",
            f"--network-bridge={network.BRIDGE}",
            "--capability=all",
            "--system-call-filter=bpf keyctl mount",
            "--bind=/dev/net/tun",
            # The kubelet looks there for processes that the kernel ended; this machine's log is none of its business.
            "--bind=/dev/null:/dev/kmsg",
            *binds,
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=pipe",
            "--quiet",
            INIT,
        ]

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
        while not network.ssh_answers(self.number, self.index, seconds=2):
            if not processes.find(self.lab, self._role) or time.monotonic() > deadline:
                lines = self.console.read_text(errors="replace").split("\n") if self.console.exists() else []
                lines = [line.strip() for line in lines if line.strip()] or ["nothing"]
                hint = f"see {self.console}" if inotify_left() else f"sysctl {INOTIFY}=1024"
                raise SmallkubeError(f"did not start: {lines[-1]}", where=self.name, hint=hint)
            time.sleep(0.05)

    @property
    def init(self) -> int | None:
        """The machine's process number 1 as numbered on this machine, None when it is off."""
        return processes.first_inside(self.lab, self._role)

    @property
    def running(self) -> bool:
        return self.init is not None

    @property
    def ssh_reachable(self) -> bool:
        return network.ssh_answers(self.number, self.index, seconds=2)

    def stop(self, seconds: float = 30) -> None:
        """Shut the machine down in order (what is left after ``seconds`` is cut off)."""
        init = self.init
        if init is not None:
            os.kill(init, signal.SIGRTMIN + 4)
            deadline = time.monotonic() + seconds
            while self.running and time.monotonic() < deadline:
                time.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """Cut the machine's power: its processes end at once, its disk stays as it is."""
        processes.kill(self.lab, self._proxy_role)
        processes.kill(self.lab, self._role)
        self.clear()

    def clear(self) -> None:
        """Remove what is left of the machine outside its folder when its processes were killed."""
        cgroups.remove(self.group)
        with suppress(FileNotFoundError):
            (PROPAGATED / self.group).rmdir()

    def argv(self, command: Sequence[str], *, environment: Sequence[str] = ()) -> list[str]:
        """The command line that runs ``command`` inside the machine, as root.

        Raises SmallkubeError when the machine is off.
        """
        init = self.init
        if init is None:
            raise SmallkubeError("the machine is off", where=self.name, hint="inv lab.up starts it")
        enter = ["nsenter", f"--target={init}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
                 "--root", "--wd"]  # fmt: skip
        return [*enter, *CLEAN_ENVIRONMENT, *environment, *command]

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

    def report(self) -> dict[str, object]:
        """What of the running configuration the lab can't apply (see lab/node/report.py)."""
        return cast(dict[str, object], json.loads(self.check("lab-report", "--json")))


def inotify_left() -> bool:
    """Whether another inotify instance can be had; a machine with Kubernetes takes about twenty, of often only 128."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_CLOEXEC)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0 or ctypes.get_errno() != errno.EMFILE)


def needed_here() -> list[str]:
    """The programs a lab needs on this machine and that are missing."""
    names = ("systemd-nspawn", "nsenter", "unshare", "setsid", "ip", "mount", "ssh-keygen", PROXY)
    return [name for name in names if shutil.which(name) is None]
