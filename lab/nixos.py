"""NixOS virtual machines instead of containers, for people who have Nix, nixpkgs and KVM.

The machines are NixOS as it comes, with sshd and the operator's key: the deploy makes them what they are to be. The
operator reaches them where the container backend's are reached (127.88.K.N port 2222); among themselves a multicast
socket on loopback joins them. Untested: this backend could not be tried where the rest of the lab was.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lab import network, processes, workspace
from lab.cluster import Lab
from lab.command import run
from lab.record import Parts, Record
from smallkube.core.errors import SmallkubeError, UsageError

GROUP = "230.88.0.1"
FIRST_PORT = 18800
BOOT_SECONDS = 300
HOST = """\
# {name} of the lab, a virtual machine. What a real machine needs to boot and to be reached stands in a file like this.
{{ modulesPath, ... }}:
{{
  imports = [ "${{modulesPath}}/virtualisation/qemu-vm.nix" ];
  virtualisation = {{
    graphics = false;
    memorySize = 2048;
    cores = 2;
    writableStore = true;
  }};
  networking = {{
    hostName = "{name}";
    useNetworkd = true;
    interfaces.eth1.ipv4.addresses = [ {{ address = "{address}"; prefixLength = {prefix}; }} ];
  }};
  nix.settings.experimental-features = [ "nix-command" "flakes" ];
  services.openssh.enable = true;
  users.users.root.openssh.authorizedKeys.keys = [ "{key}" ];
  system.stateVersion = "25.11";
}}
"""


def check_prerequisites() -> None:
    """Raises UsageError when there is no Nix, or no nixpkgs to build a machine from."""
    if shutil.which("nix-build") is None:
        raise UsageError("--backend nixos needs Nix", hint="install it, or leave --backend out")
    argv = ["nix-instantiate", "--find-file", "nixpkgs/nixos"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    if found.returncode or not Path(found.stdout.strip()).is_dir():
        hint = "set NIX_PATH=nixpkgs=/path/to/nixpkgs, or leave --backend out"
        raise UsageError("--backend nixos needs nixpkgs, and NIX_PATH names none", hint=hint)


def up(lab: Lab, nodes: int, folder: Path | None, say: Callable[[str], None]) -> Path:
    """Build and start the machines of a new lab; returns its workspace.

    Raises UsageError when there is a lab of this name, or this machine can't have one of this kind.
    """
    check_prerequisites()
    with lab.locked():
        if lab.record is not None:
            raise UsageError(f"there is a lab {lab.name} already", hint=f"inv lab.down --name {lab.name}")
        with lab.undone_on_failure():
            indices = range(1, nodes + 1)
            with lab.begin(Parts(), folder) as (record, claim):
                public = Path(f"{lab.key}.pub").read_text().strip()
                place = Path(record.workspace)
                hosts = {index: _host(index, public) for index in indices}
                workspace.write(place, record.number, hosts, lab.key, own_images=False)
                for index in indices:
                    say(f"building and starting node{index}")
                    _start(lab, record.number, index, place, claim)
            for index in indices:
                _await_ssh(record.number, index)
            lab.write(Record(record.number, "", record.workspace, tuple(indices), complete=True))
            return place


def _host(index: int, key: str) -> str:
    address = network.peer_address(index)
    return HOST.format(name=f"node{index}", address=address, prefix=network.PREFIX_LENGTH, key=key)


def _start(lab: Lab, number: int, index: int, place: Path, claim: socket.socket) -> None:
    name = f"node{index}"
    folder = lab.folder / "nodes" / name
    folder.mkdir(parents=True)
    host = place / "nix/hosts" / f"{name}.nix"
    run(["nix-build", "<nixpkgs/nixos>", "-A", "vm", "-I", f"nixos-config={host}", "--out-link", folder / "vm"])
    reach = f"hostfwd=tcp:{network.operator_address(number, index)}:{network.SSH_PORT}-:22"
    join = f"-nic socket,mcast={GROUP}:{FIRST_PORT + number},localaddr=127.0.0.1,mac=52:54:00:88:00:{index:02x}"
    settings = [f"QEMU_NET_OPTS={reach}", f"QEMU_OPTS={join}", f"NIX_DISK_IMAGE={folder}/disk.qcow2"]
    program = folder / "vm/bin" / f"run-{name}-vm"
    argv, log = ["env", *settings, program], folder / "console.log"
    processes.spawn(argv, lab.folder, f"machine {name}", log, inherited=[claim.fileno()])


def _await_ssh(number: int, index: int) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while not network.ssh_answers(number, index, seconds=2):
        if time.monotonic() > deadline:
            raise SmallkubeError(f"did not answer within {BOOT_SECONDS} s", where=f"node{index}")
        time.sleep(1)
