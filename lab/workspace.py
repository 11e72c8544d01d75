"""The workspace that fits a lab: an inventory with its machines, their own configuration, the pinned inputs."""

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab import network
from lab.containers import BUSYBOX, PAUSE
from lab.machine import Machine
from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace

HOST = """\
# {name} of the lab. What a real machine needs to boot and to be reached stands in a file like this.
{{
  boot.isContainer = true;
  nixpkgs.hostPlatform = "{system}";
  networking.hostName = "{name}";
  services.openssh.enable = true;
  # No machine of the lab reaches a registry: this image is there already.
  virtualisation.cri-o.pauseImage = "{pause}";
  # Nor do its other images come back. The disk is this machine's, whose owner cares for its free space: 100 is never,
  # and so is 0 %.
  kube.kubeletSettings = {{
    imageGCHighThresholdPercent = 100;
    evictionSoft = {{ "nodefs.available" = "0%"; "imagefs.available" = "0%"; }};
    evictionHard = {{ "nodefs.available" = "0%"; "imagefs.available" = "0%"; }};
  }};
{more}  system.stateVersion = "25.11";
}}
"""
UNIFIED_CGROUPS = Path("/sys/fs/cgroup/cgroup.controllers")
NO_SWAP = """\
  # The kernel's control groups are of version 1 here, with which the kubelet can't limit swap (NixOS has version 2).
  kube.kubeletSettings.memorySwap.swapBehavior = "NoSwap";
"""
STAND_INS = {
    "nixpkgs": ("/opt/smallkube-lab/nix", {"owner": "NixOS", "repo": "nixpkgs", "ref": "nixos-25.11"}),
    "agenix": ("/opt/smallkube-lab/nix/agenix", {"owner": "ryantm", "repo": "agenix"}),
}
"""Input of the rendered flake to the folder on a lab machine that stands in for it, and where it really comes from."""


def node_lines(number: int, index: int) -> list[str]:
    """One node of inventory.yaml: machine ``index`` of the lab with this number."""
    return [
        f"  node{index}:",
        f"    peer_ip: {network.peer_address(index)}",
        f"    ssh: {{host: {network.operator_address(number, index)}, port: {network.SSH_PORT}}}",
    ]


SMOKE = f"  smoke: {{image: '{BUSYBOX}', pull_policy: Never}}  # no machine of the lab reaches a registry"


def inventory(number: int, indices: Iterable[int], cluster: str, *, own_images: bool = True) -> str:
    """inventory.yaml of a cluster of these machines; ``own_images``: they have those of lab/containers.py only."""
    lines = ["cluster:", f"  name: {cluster}", *([SMOKE] if own_images else []), "nodes:"]
    for index in indices:
        lines += node_lines(number, index)
    return "".join(f"{line}\n" for line in lines)


def flake_lock(hashes: dict[str, str]) -> str:
    """nix/flake.lock that pins the inputs to the stand-ins on the lab's machines; ``hashes`` are their NAR hashes."""
    nodes: dict[str, Any] = {"root": {"inputs": {name: name for name in STAND_INS}}}
    for name, (path, origin) in STAND_INS.items():
        locked = {"type": "path", "path": path, "narHash": hashes[name]}
        nodes[name] = {"locked": locked, "original": {"type": "github", **origin}}
    nodes["agenix"]["inputs"] = {"nixpkgs": ["nixpkgs"]}
    return json.dumps({"nodes": nodes, "root": "root", "version": 7}, indent=2, sort_keys=True) + "\n"


def write(place: Path, number: int, hosts: Mapping[int, str], key: Path, *, own_images: bool = True) -> list[str]:
    """Write what is not there yet of the workspace; what a person may have edited stays, the key is renewed.

    ``hosts`` is each machine's own configuration by its index, ``own_images`` as for ``inventory``. Returns the lines
    that a kept inventory.yaml lacks.
    """
    space = Workspace(place)
    space.root.mkdir(parents=True, exist_ok=True)
    write_file(space.state_dir / "ssh_key", key.read_bytes(), 0o600)
    _write_new(space.root / ".gitignore", "/.smallkube/\n/keys/master_key\n")
    _write_new(space.inventory_file, inventory(number, hosts, "lab", own_images=own_images))
    for index, text in hosts.items():
        _write_new(space.hosts_dir / f"node{index}.nix", text)
    kept = space.inventory_file.read_text()
    lacking = (index for index in hosts if network.operator_address(number, index) not in kept)
    return [line for index in lacking for line in node_lines(number, index)]


def container_hosts(indices: Iterable[int]) -> dict[int, str]:
    """The machines' own configuration in the container backend."""
    system = f"{platform.machine()}-linux"
    more = "" if UNIFIED_CGROUPS.exists() else NO_SWAP
    return {index: HOST.format(name=f"node{index}", system=system, pause=PAUSE, more=more) for index in indices}


def pin(place: Path, machine: Machine) -> None:
    """Write nix/flake.lock, with the hashes that Nix on a machine of the lab gives its stand-ins."""
    hashes = {name: machine.check("nix", "hash", "path", path).strip() for name, (path, _) in STAND_INS.items()}
    write_file(Workspace(place).flake_lock, flake_lock(hashes))


def _write_new(path: Path, text: str) -> None:
    if not path.exists():
        write_file(path, text)


def forget_key(place: Path, key: Path) -> None:
    """Remove the lab's key from a workspace that stays."""
    copy = Workspace(place).state_dir / "ssh_key"
    if key.is_file() and copy.is_file() and copy.read_bytes() == key.read_bytes():
        copy.unlink()
