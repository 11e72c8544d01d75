"""A machine that is a systemd-nspawn container, with a disk of its own over the shared image."""

import ctypes
import errno
import hashlib
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab import cgroups, network, processes
from lab.machine import Machine, collection
from lab.removal import remove_tree

START = Path(__file__).with_name("start-node.sh")
PROPAGATED = Path("/run/systemd/nspawn/propagate")
"""Where systemd-nspawn makes a folder for each machine, which it removes when it ends in order."""
INIT = "/opt/smallkube-lab/bin/init"
INOTIFY = "fs.inotify.max_user_instances"
VOLUMES = ("nix", "var/lib/containers", "var/lib/containerd")
"""Folders that must not be on an overlay: container storage mounts its own, and Nix's database is faster without."""


@dataclass(frozen=True)
class Container(Machine):
    """A container; its kernel is this machine's."""

    HARDWARE = "  boot.isContainer = true;"
    FOLDERS = ("work", "root", *(f"volumes/{volume}" for volume in VOLUMES))

    @property
    def group(self) -> str:
        """The machine's control group, and its name on this machine.

        Labs in other state folders may have the same name, hence the digest of the folder.
        """
        digest = hashlib.sha256(bytes(self.lab)).hexdigest()[:8]
        return f"smallkube-lab-{self.lab.name}-{digest}-{self.name}"

    def _program(self, lower: Sequence[Path]) -> list[object]:
        groups = [] if cgroups.systemd_is_here() else cgroups.create(self.group)
        disk = [":".join(str(layer) for layer in lower), *(self.folder / name for name in ("upper", "work", "root"))]
        apart = ["unshare", "--mount", "--propagation=slave", "sh", START, self.group]
        return [*apart, *disk, ":".join(str(group) for group in groups), *self._nspawn()]

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
            *(f"--setenv={variable}" for variable in collection()),
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

    def _hint(self) -> str:
        return super()._hint() if inotify_left() else f"sysctl {INOTIFY}=1024"

    @property
    def init(self) -> int | None:
        """The machine's process number 1 as numbered on this machine, None when it is off."""
        return processes.first_inside(self.lab, self._role)

    def _power_off(self, seconds: float) -> None:
        if init := self.init:
            os.kill(init, signal.SIGRTMIN + 4)

    def kill(self) -> None:
        """Cut the machine's power: its processes end at once, its disk stays as it is."""
        super().kill()
        self.clear()

    def clear(self) -> None:
        """Remove what is left of the machine outside its folder when its processes were killed."""
        cgroups.remove(self.group)
        with suppress(FileNotFoundError):
            (PROPAGATED / self.group).rmdir()

    def _enter(self, init: int) -> list[str]:
        namespaces = ("mount", "uts", "ipc", "net", "pid", "cgroup")
        return ["nsenter", f"--target={init}", *(f"--{name}" for name in namespaces), "--root", "--wd"]

    def put(self, folder: Path, place: str) -> None:
        copy = self.folder / "volumes" / place.lstrip("/")
        remove_tree(copy)
        shutil.copytree(folder, copy, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    """The same file in another place, copied only where that is on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def inotify_left() -> bool:
    """Whether another inotify instance can be had; a machine with Kubernetes takes about twenty, of often only 128."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_CLOEXEC)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0 or ctypes.get_errno() != errno.EMFILE)
