"""The workspace that fits a lab: an inventory with its machines, their own configuration, the pinned inputs."""

import json
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab import network
from lab.containers import BUSYBOX, PAUSE
from lab.kubernetes import MINOR
from lab.layer import PREFIX
from lab.machine import Machine
from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import load
from smallkube.inventory.models import ClusterSettings
from smallkube.inventory.releases import PINS, RELEASES
from smallkube.operations import upgrade_path

HOST = """\
# {name} of the lab. What a real machine needs to boot and to be reached stands in a file like this.
{{
{boot}
  nixpkgs.hostPlatform = "{system}";
  networking.hostName = "{name}";
  services.openssh.enable = true;
{more}  system.stateVersion = "25.11";
}}
"""
NO_REGISTRY = f"""\
  # No machine of the lab reaches a registry: this image is there already.
  virtualisation.cri-o.pauseImage = "{PAUSE}";
  # Nor do its other images come back. The disk is this machine's, whose owner cares for its free space: 100 is never,
  # and so is 0 %.
  kube.kubeletSettings = {{
    imageGCHighThresholdPercent = 100;
    evictionSoft = {{ "nodefs.available" = "0%"; "imagefs.available" = "0%"; }};
    evictionHard = {{ "nodefs.available" = "0%"; "imagefs.available" = "0%"; }};
  }};
"""
CONTAINER = "  boot.isContainer = true;"
VIRTUAL = """\
  # QEMU starts the lab's kernel itself. The key is there from the beginning, as it would be on a real machine.
  boot.loader.external.enable = true;
  fileSystems."/" = {{ device = "/dev/nvme0n1"; fsType = "ext4"; }};
  users.users.root.openssh.authorizedKeys.keys = [ "{key}" ];"""
UNIFIED_CGROUPS = Path("/sys/fs/cgroup/cgroup.controllers")
NO_SWAP = """\
  # The kernel's control groups are of version 1 here, with which the kubelet can't limit swap, and does not start from
  # 1.35 on (NixOS has version 2).
  kube.kubeletSettings.memorySwap.swapBehavior = "NoSwap";
  kube.kubeletSettings.failCgroupV1 = false;
"""
NIXPKGS = {"owner": "NixOS", "repo": "nixpkgs"}
UNSTABLE = "nixos-unstable"
"""Named for a minor that no known revision of nixpkgs has: the lab's stand-in takes its place in any case."""


def stand_ins(cluster: ClusterSettings) -> dict[str, tuple[str, dict[str, str]]]:
    """Input of the rendered flake to the folder on a machine that stands in for it, and where it really comes from."""
    own, other = f"nixpkgs/{cluster.nixos}", cluster.kubernetes_input
    found = {
        "nixpkgs": (f"/{PREFIX}/{own}", {**NIXPKGS, "ref": f"nixos-{cluster.nixos}"}),
        "agenix": (f"/{PREFIX}/nix/agenix", {"owner": "ryantm", "repo": "agenix"}),
    }
    if other:
        # builtins.parseFlakeRef: what looks like a commit is one.
        kind = "rev" if re.fullmatch("[0-9a-f]{40}", other) else "ref"
        found["kubernetes-nixpkgs"] = (
            f"/{PREFIX}/kubernetes-nixpkgs/{cluster.kubernetes}",
            {**NIXPKGS, kind: other},
        )
    return found


def versions(minor: str) -> list[str]:
    """The lines of inventory.yaml for a cluster of this minor."""
    nixos = next((release for release, own in RELEASES.items() if own == minor), max(RELEASES))
    named = [] if minor in (*PINS, RELEASES[nixos]) else [f"  kubernetes_nixpkgs: {UNSTABLE}"]
    return [f'  kubernetes: "{minor}"', f'  nixos: "{nixos}"', *named]


def node_lines(number: int, index: int) -> list[str]:
    """One node of inventory.yaml: machine ``index`` of the lab with this number."""
    return [
        f"  node{index}:",
        f"    peer_ip: {network.peer_address(index)}",
        f"    ssh: {{host: {network.operator_address(number, index)}, port: {network.SSH_PORT}}}",
    ]


SMOKE = f"  smoke: {{image: '{BUSYBOX}', pull_policy: Never}}  # no machine of the lab reaches a registry"


def inventory(number: int, indices: Iterable[int], cluster: str, *, own_images: bool = True, minor: str = MINOR) -> str:
    """inventory.yaml of a cluster of these machines; ``own_images``: they have those of lab/containers.py only."""
    lines = ["cluster:", f"  name: {cluster}", *versions(minor), *([SMOKE] if own_images else []), "nodes:"]
    for index in indices:
        lines += node_lines(number, index)
    return "".join(f"{line}\n" for line in lines)


def flake_lock(cluster: ClusterSettings, hashes: Mapping[str, str]) -> str:
    """nix/flake.lock that pins the inputs to the stand-ins on the lab's machines; ``hashes`` are their NAR hashes."""
    inputs = stand_ins(cluster)
    nodes: dict[str, Any] = {"root": {"inputs": {name: name for name in inputs}}}
    for name, (path, origin) in inputs.items():
        locked = {"type": "path", "path": path, "narHash": hashes[name]}
        nodes[name] = {"locked": locked, "original": {"type": "github", **origin}}
    nodes["agenix"]["inputs"] = {"nixpkgs": ["nixpkgs"]}
    return json.dumps({"nodes": nodes, "root": "root", "version": 7}, indent=2, sort_keys=True) + "\n"


def write(
    place: Path,
    number: int,
    hosts: Mapping[int, str],
    key: Path,
    *,
    own_images: bool = True,
    minor: str = MINOR,
) -> list[str]:
    """Write what is not there yet of the workspace; what a person may have edited stays, the key is renewed.

    ``hosts`` is each machine's own configuration by its index, the others are as for ``inventory``. Returns the lines
    that a kept inventory.yaml lacks.
    """
    space = Workspace(place)
    space.root.mkdir(parents=True, exist_ok=True)
    write_file(space.state_dir / "ssh_key", key.read_bytes(), 0o600)
    _write_new(space.root / ".gitignore", "/.smallkube/\n/keys/master_key\n")
    _write_new(space.inventory_file, inventory(number, hosts, "lab", own_images=own_images, minor=minor))
    for index, text in hosts.items():
        _write_new(space.hosts_dir / f"node{index}.nix", text)
    kept = space.inventory_file.read_text()
    lacking = (index for index in hosts if network.operator_address(number, index) not in kept)
    return [line for index in lacking for line in node_lines(number, index)]


def hosts(indices: Iterable[int], key: str | None) -> dict[int, str]:
    """The machines' own configuration: containers', or virtual machines' that let in the public ``key``."""
    system = f"{platform.machine()}-linux"
    boot = VIRTUAL.format(key=key) if key else CONTAINER
    more = peculiar(virtual=bool(key))
    names = {index: f"node{index}" for index in indices}
    return {i: HOST.format(name=name, boot=boot, system=system, more=more) for i, name in names.items()}


def peculiar(*, virtual: bool = False) -> str:
    """What the own configuration of a lab's machine must say, and that of a real one need not."""
    return NO_REGISTRY + ("" if virtual or UNIFIED_CGROUPS.exists() else NO_SWAP)


def pin(place: Path, machine: Machine, between: str = "") -> None:
    """Write nix/flake.lock for the inventory, with the hashes that Nix on a machine of the lab gives its stand-ins.

    ``between``: that of this minor on the way to the inventory's own (smallkube/operations/upgrade_path.py).
    """
    space = Workspace(place, between)
    inventory = load(space.inventory_file)
    cluster = upgrade_path.at(inventory, between or inventory.cluster.kubernetes).cluster
    found = stand_ins(cluster).items()
    hashes = {name: machine.check("nix", "hash", "path", path).strip() for name, (path, _) in found}
    write_file(space.flake_lock, flake_lock(cluster, hashes))


def _write_new(path: Path, text: str) -> None:
    if not path.exists():
        write_file(path, text)


def forget_key(place: Path, key: Path) -> None:
    """Remove the lab's key from a workspace that stays."""
    copy = Workspace(place).state_dir / "ssh_key"
    if key.is_file() and copy.is_file() and copy.read_bytes() == key.read_bytes():
        copy.unlink()
