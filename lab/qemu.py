"""A machine that is a virtual machine of QEMU: a kernel and a disk of its own, from the same image as containers.

Its network is a tap in the lab's network namespace, as a container's is: nothing on this machine's own network. The
lab's commands go through serial ports (see lab/agent.py), since what is tested may break the network.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab import network, processes
from lab.command import run, with_parent
from lab.machine import Machine
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import write_file

START, AGENT = (Path(__file__).with_name(name) for name in ("start-qemu.sh", "agent.py"))
QEMU = "qemu-system-x86_64"
PLAIN = ("-nodefaults", "-no-user-config", "-display", "none")
NEEDED_HERE = {QEMU: "qemu-system-x86", "qemu-img": "qemu-utils", "mkfs.ext4": "e2fsprogs"}
"""Program to Debian's package of it."""
ACCELERATOR = "accelerator"
CPUS = {"kvm": "host", "tcg": "max"}
CORES = {"kvm": "2", "tcg": "1"}
"""With one, QEMU translates neither the memory barriers nor the atomic accesses that several need among them."""
PROBE_SECONDS = 15
MEMORY = "2048"
"""MiB."""
KERNEL = (
    "root=/dev/nvme0n1 rootfstype=ext4 rw init=/usr/sbin/lab-boot console=ttyS0 quiet mitigations=off panic=-1 "
    "systemd.ssh_auto=no"  # it asks for a vsock, which is not there
)
COMMANDS_AT_ONCE = 8
PATIENCE = "15min"
LINK = "[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\n"
UNIT = """\
[Unit]
Description=Commands of the lab
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
ExecStart=/opt/smallkube-lab/lib/lab/node/lab-agent
Restart=always
KillMode=process
"""


@dataclass(frozen=True)
class VirtualMachine(Machine):
    """A virtual machine; ``lower`` is the lab's own layer and a folder of lab/disk.py."""

    HARDWARE = '  fileSystems."/" = { device = "/dev/nvme0n1"; fsType = "ext4"; };'
    BOOT_SECONDS = 1200
    SSH_SECONDS = 20

    @property
    def _mac(self) -> str:
        return f"52:54:00:88:00:{self.index:02x}"

    def create(self, authorized_key: str) -> None:
        """Make the machine's own files, with host keys of its own and ``authorized_key`` let in."""
        super().create(authorized_key)
        units = self.folder / "upper/usr/lib/systemd/system"
        write_file(units / "lab-agent.service", UNIT)
        wants = units / "sysinit.target.wants"
        wants.mkdir()
        (wants / "lab-agent.service").symlink_to("../lab-agent.service")
        # No login at the console: it shows only what the machine says.
        (self.folder / "upper/etc/systemd/system").mkdir()
        (self.folder / "upper/etc/systemd/system/serial-getty@ttyS0.service").symlink_to("/dev/null")
        # Where cores are shared with much else, and translated for, nothing starts within systemd's 90 s.
        write_file(
            self.folder / "upper/etc/systemd/system.conf.d/lab.conf", f"[Manager]\nDefaultTimeoutStartSec={PATIENCE}\n"
        )
        link = LINK.format(mac=self._mac, name=network.INTERFACE)
        write_file(self.folder / "upper/etc/systemd/network/05-lab.link", link)

    def _program(self, lower: Sequence[Path]) -> list[object]:
        layer, base = lower
        disk = self.folder / "disk.qcow2"
        if not disk.exists() or not disk.stat().st_size:
            own = self.folder / "own.tar"
            # They hold private keys; what fills them keeps the mode.
            own.touch(0o600)
            disk.touch(0o600)
            run(["tar", "--create", f"--file={own}", "-C", layer, ".", "-C", self.folder / "upper", "."])
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base / "disk.img", disk])
        accelerator = (self.lab / ACCELERATOR).read_text()
        return ["sh", START, self._tap, network.BRIDGE, QEMU, *PLAIN, *self._machine(accelerator, base), *self._ports()]

    @property
    def _tap(self) -> str:
        return f"tap-{self.name}"

    def _machine(self, accelerator: str, base: Path) -> list[str]:
        drive = "if=none,id"
        return [
            *("-machine", f"q35,accel={accelerator}", "-cpu", CPUS[accelerator]),
            *("-smp", CORES[accelerator], "-m", MEMORY),
            *("-kernel", str(base / "vmlinuz"), "-append", KERNEL),
            *("-drive", f"{drive}=disk,format=qcow2,discard=unmap,file={_option(self.folder / 'disk.qcow2')}"),
            *("-device", "nvme,serial=lab,drive=disk"),
            *("-drive", f"{drive}=own,format=raw,readonly=on,file={_option(self.folder / 'own.tar')}"),
            *("-device", "virtio-blk-pci,drive=own"),
            *("-netdev", f"tap,id=lab,ifname={self._tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=lab,mac={self._mac}"),
            *("-chardev", f"file,id=console,append=on,path={_option(self.console)}", "-serial", "chardev:console"),
            *("-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random"),
        ]

    def _ports(self) -> list[str]:
        words = ["-device", "virtio-serial-pci"]
        for number in range(COMMANDS_AT_ONCE):
            path = _option(self.folder / f"agent-{number}.sock")
            words += ["-chardev", f"socket,id=agent{number},server=on,wait=off,path={path}"]
            words += ["-device", f"virtserialport,chardev=agent{number},name=lab.{number}"]
        return words

    @property
    def init(self) -> int | None:
        """The process of QEMU, None when the machine is off."""
        found = (each.pid for each in processes.find(self.lab, self._role) if each.name.startswith("qemu"))
        return next(found, None)

    def _power_off(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.execute(["systemctl", "poweroff"], seconds=seconds)

    def _enter(self, init: int) -> list[str]:
        return [sys.executable, str(AGENT), str(self.folder)]

    def put(self, folder: Path, place: str) -> None:
        self.check("rm", "-rf", place)
        unpack = self.argv(["sh", "-c", 'mkdir -p "$1" && tar --extract --directory="$1"', "sh", place])
        with subprocess.Popen(["tar", "--create", "--directory", folder, "."], stdout=subprocess.PIPE) as packed:
            done = subprocess.run(unpack, stdin=packed.stdout, capture_output=True, text=True, check=False)
        if done.returncode or packed.returncode:
            raise SmallkubeError(f"{folder.name} could not be copied: {done.stderr.strip()}", where=self.name)


def _option(path: Path) -> str:
    """A path as QEMU takes it within an option."""
    return str(path).replace(",", ",,")


def check_prerequisites() -> None:
    """Raises UsageError when this machine can't have virtual machines of the lab."""
    if platform.machine() != "x86_64":
        raise UsageError(f"--backend qemu: not on {platform.machine()}", hint="omit it")
    missing = [name for name in NEEDED_HERE if shutil.which(name) is None]
    if missing:
        packages = " ".join(NEEDED_HERE[name] for name in missing)
        raise UsageError(
            f"--backend qemu needs {', '.join(missing)}", hint=f"make lab-qemu; or apt-get install {packages}"
        )


def choose_accelerator(lab: Path, disk: Path, say: Callable[[str], None]) -> None:
    """Write down for the machines of a new lab what they run under; ``say`` gets it when that is slow."""
    found = accelerator(disk / "vmlinuz")
    write_file(lab / ACCELERATOR, found)
    if found != "kvm":
        say("KVM is not usable here: the machines run under QEMU's translator (TCG), several times slower")


def accelerator(kernel: Path) -> str:
    """``kvm`` where a guest makes progress under it, ``tcg`` (QEMU's own translator) elsewhere.

    Without a disk the kernel panics, which ends this guest at once. KVM inside of another virtual machine may be there
    and yet stop at an instruction that it can't emulate.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    argv = [QEMU, *PLAIN, "-no-reboot", "-machine", "q35,accel=kvm", "-cpu", CPUS["kvm"], "-m", "256"]
    argv += ["-kernel", str(kernel), "-append", "panic=-1"]
    try:
        done = subprocess.run(
            with_parent(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "tcg"
    return "tcg" if done.returncode else "kvm"
