"""Installing NixOS by nixos-anywhere on a machine that has none, with the host key that `keys.new-host` made for it.

Its flags: github.com/nix-community/nixos-anywhere, src/nixos-anywhere.sh at 1.13.0 and at 91fc9b7 (2026-07-22). It
verifies no host key of the system that it replaces, and repeats a login that fails until it is stopped: so the login
is tried here first.
"""

import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from pydantic import ValidationError

from smallkube.core import process
from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError, listed, one_line, split_lines
from smallkube.core.files import write_file
from smallkube.deploy import plan, preflight
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node, Ssh
from smallkube.kube import members
from smallkube.nix import flake, render
from smallkube.nix.bundle import Bundle, assemble, write_tree
from smallkube.operations.machines import SCRIPTS
from smallkube.remote.host import Connect
from smallkube.remote.openssh import BATCH, CONNECT_SECONDS
from smallkube.secrets import edit, host_keys
from smallkube.secrets.host_keys import HostKey

RELEASE = "1.13.0"
"""Of nixos-anywhere, where the machine of the operator has none."""
BUILD_ON = ("auto", "local", "remote")
_AUTHENTICATION = ("SSH_AUTH_SOCK", "USER")
_UNVERIFIED = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
_MAX_HARDWARE_BYTES = 100_000
_MEMBER, _NO_DISK, _NO_SSH = 3, 4, 255


@dataclass(frozen=True)
class Installation:
    """What is to be installed: the ``node`` with the SSH settings of the system that it replaces, the bundle, name →
    device of each disk that is erased, and ``extra_files``, which has the host key.
    """

    node: Node
    bundle: Bundle
    disks: Mapping[str, str]
    extra_files: Path
    build_on: str

    @property
    def hardware(self) -> str:
        """The file in nix/hosts that NODE.nix imports and that is not there yet; else ""."""
        name, folder = f"{self.node.name}-hardware.nix", "nix/hosts"
        text = self.bundle.files.get(f"{folder}/{self.node.name}.nix", b"").decode(errors="replace")
        missing = f"{folder}/{name}" not in self.bundle.files
        return f"{folder}/{name}" if missing and name in re.sub(r"#[^\n]*", "", text) else ""

    def command(self, tree: Path) -> tuple[str, ...]:
        """What installs it from the ``tree``, where the bundle is. Raises UsageError without Nix."""
        nix, ssh = _nix(), self.node.ssh
        own = process.find("nixos-anywhere")
        run = (nix, *flake.FEATURES, "run", f"github:nix-community/nixos-anywhere/{RELEASE}", "--")
        argv = [*((own,) if own else run), "--flake", f"{flake.address(nix, tree)}#{self.node.name}"]
        argv += ["--extra-files", str(self.extra_files), "--target-host", f"{ssh.user}@{ssh.host}"]
        argv += ["--ssh-port", str(ssh.port)] if ssh.port != 22 else []
        argv += ["--build-on", self.build_on] if self.build_on != "auto" else []
        if self.hardware:
            argv += ["--generate-hardware-config", "nixos-generate-config", str(tree / self.hardware)]
        return tuple(argv)


def target(node: Node, where: str | None, port: int) -> Node:
    """``node`` with ``where``, [USER@]HOST, in place of its own SSH settings. Raises UsageError."""
    user, _, host = (where or node.ssh.host).rpartition("@")
    try:
        return node.model_copy(update={"ssh": Ssh(host=host, port=port, user=user or "root")})
    except ValidationError as error:
        raise UsageError(f"--target {where!r}: not [USER@]HOST", hint="such as root@192.0.2.1") from error


def prepare(cluster: Cluster, node: Node, extra_files: Path, build_on: str, *, may_lock: bool) -> Installation:
    """All that can be checked here. ``node``: as ``target`` gives it; ``may_lock``: as for a deploy.

    Raises UsageError or ErrorGroup when the key, the secrets or the configuration are not fit to be installed.
    """
    if build_on not in BUILD_ON:
        raise UsageError(f"--build-on {build_on!r}: unknown", hint=f"pass one of {', '.join(BUILD_ON)}")
    _nix()
    require_key(cluster, node, extra_files)
    preflight.check_rendered(cluster, render.plan(cluster).changed)
    whole = assemble(cluster)
    flake.require_sound_lock(whole.files)
    plan.check_secrets((node,), plan.findings(cluster))
    if may_lock:
        whole = plan.locked(cluster, whole)
    return Installation(node, whole, {}, extra_files, build_on)


def _nix() -> str:
    if nix := process.find("nix"):
        return nix
    raise UsageError("Nix is not installed here, and nixos-anywhere needs it", hint="see `inv doctor`")


def require_key(cluster: Cluster, node: Node, folder: Path) -> HostKey:
    """The host key in ``folder``. Raises UsageError unless that is in memory, private, and the key that is stored."""
    file, hint = folder / host_keys.FILE, f"run `inv keys.new-host {node.name} --out FOLDER`"
    stored = host_keys.read_host_key(cluster.workspace, node.name)
    if stored is None:
        raise UsageError("missing", where=f"keys/hosts/{node.name}.pub", hint=hint)
    try:
        mode = folder.stat().st_mode
        private = load_ssh_private_key(file.read_bytes(), None)
    except FileNotFoundError as error:
        raise UsageError("no host key", where=str(file), hint=f"{hint} (--replace if one is stored)") from error
    except MALFORMED as error:
        raise UsageError("not a private SSH key without a passphrase", where=str(file), hint=hint) from error
    if stat.S_IMODE(mode) & 0o077 or not edit.in_memory(folder):
        hint = "let keys.new-host make it in $XDG_RUNTIME_DIR or /dev/shm"
        raise UsageError("is not a private folder in memory (tmpfs)", where=str(folder), hint=hint)
    if not isinstance(private, Ed25519PrivateKey) or host_keys.of_private(private) != stored:
        hint = f"use the folder that `inv keys.new-host {node.name}` wrote last"
        raise UsageError(f"is not the key of keys/hosts/{node.name}.pub", where=str(file), hint=hint)
    return stored


def examine(installation: Installation, tree: Path) -> Mapping[str, str]:
    """The disks that its configuration, of which ``tree`` has the flake, makes disko erase: name → device.

    Raises UsageError when the machine could not boot, be reached or be partitioned with it.
    """
    nix, name = _nix(), installation.node.name
    where = f"nix/hosts/{name}.nix"
    try:
        described = flake.Flake(nix, flake.url(nix, tree), {}).describe([name])[name]
    except SmallkubeError as error:
        raise UsageError(f"can't be evaluated: {error.message}", where=where, hint="see `inv nix.check`") from error
    if problems := [*described["failedAssertions"], *described["lacking"]]:
        raise UsageError(one_line("; ".join(problems)), where=where, hint="nix/examples has whole examples")
    disks = {str(disk): str(device) for disk, device in described["disks"].items()}
    if not disks:
        problem = "no disko.devices.disk, by which nixos-anywhere partitions the disks"
        raise UsageError(problem, where=where, hint="nix/examples/bare-metal.nix has one")
    return disks


def require_installable(node: Node, disks: Sequence[str]) -> None:
    """Log in to the machine, without verifying its host key, and see whether it can be installed.

    Raises UsageError when it can't be reached, is a node of a running cluster, or has not these disks.
    """
    ssh = node.ssh
    where = f"{ssh.user}@{ssh.host}"
    connect = ("-T", *BATCH, *_UNVERIFIED, "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-p", str(ssh.port))
    script = (SCRIPTS.folder / "installable.sh").read_text()
    argv = ["ssh", *connect, "-l", ssh.user, "--", ssh.host, shlex.join(["sh", "-c", script, "sh", *disks])]
    agent = {name: os.environ[name] for name in _AUTHENTICATION if name in os.environ}
    done = process.run(argv, environment=agent, timeout=6 * CONNECT_SECONDS)
    said = one_line(done.stdout.strip())[:200]
    if done.status == _MEMBER:
        hint = "remove it from its cluster (nodes.remove), and stop them, if its disks are to be erased"
        raise UsageError(f"is a node of a running cluster: {said} is active", where=where, hint=hint)
    if done.status == _NO_DISK:
        hint = f"see `ssh {where} lsblk`; /dev/disk/by-id has names that do not change"
        raise UsageError(f"has no disk {said}, which nix/hosts/{node.name}.nix names", where=where, hint=hint)
    if not done.ok:
        last = split_lines(done.stderr.strip() or f"exit status {done.status}")[-1]
        hint = "start its installer or rescue system, with your SSH key in it; --target and --port name another way"
        raise UsageError(f"can't log in to the machine: {one_line(last)[:200]}", where=where, hint=hint)


def member_state(cluster: Cluster, node: Node, connect: Connect) -> str:
    """Why it is not known whether ``node`` is a member of the running cluster, "" when it is none.

    Raises UsageError when it is a member that is Ready.
    """
    inventory = cluster.inventory
    if node.index == inventory.primary.index:
        return ""
    try:
        if reason := members.api_down(inventory, connect):
            return reason
        with connect(inventory.primary) as machine:
            found = members.member(machine, inventory.addressing.node_host(node.index))
    except SmallkubeError as error:
        return str(error)
    if found and found.ready:
        hint = f"inv nodes.remove {node.name} first, to install its machine again"
        raise UsageError(f"{node.name} is a member of the running cluster, and Ready", hint=hint)
    return ""


def place(cluster: Cluster, name: str) -> Path:
    """Where the tree is that is installed."""
    return cluster.workspace.state_dir / "install" / name


def again(name: str) -> str:
    """What makes another host key possible."""
    return f"inv keys.new-host {name} --replace --out FOLDER, inv keys.rekey"


@contextmanager
def written(installation: Installation, tree: Path) -> Iterator[Path]:
    """The bundle as a new ``tree`` while the block runs."""
    try:
        shutil.rmtree(tree, ignore_errors=True)
        write_tree(installation.bundle.files, tree)
        if installation.hardware and process.find("git"):  # nixos-anywhere adds the file to the repository around it
            process.run(["git", "-C", tree, "init", "--quiet"])
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def execute(cluster: Cluster, installation: Installation, argv: Sequence[str]) -> str:
    """Install by ``argv``, its command; the hardware configuration that was brought back to nix/hosts, "" for none.

    The private key is removed whatever happens: the machine has it now, or an unfinished disk may have it.
    Raises SmallkubeError when the installation fails.
    """
    name, tree = installation.node.name, place(cluster, installation.node.name)
    try:
        with process.signals_as_errors(f"{name} may be half installed, and its host key was removed: {again(name)}"):
            status = process.run_interactive(argv, messages=True)
    finally:
        edit.wipe(installation.extra_files)
    hardware = tree / installation.hardware
    text = hardware.read_bytes() if hardware.is_file() else b""
    if brought := installation.hardware if 0 < len(text) <= _MAX_HARDWARE_BYTES else "":
        write_file(cluster.workspace.root / brought, text)
    if status:
        message = f"nixos-anywhere ended with exit status {status}; the host key was removed"
        raise SmallkubeError(message, where=name, hint=f"to try again, first {again(name)}")
    return brought


def as_json(installation: Installation, argv: Sequence[str]) -> dict[str, Any]:
    """The plan, for programs."""
    ssh = installation.node.ssh
    where = {"host": ssh.host, "port": ssh.port, "user": ssh.user}
    return {"node": installation.node.name, "target": where, "erases": dict(installation.disks), "command": [*argv]}


def devices(disks: Mapping[str, str]) -> str:
    """The disks in words."""
    return listed([f"{device} ({disk})" for disk, device in disks.items()])
