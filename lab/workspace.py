"""The workspace that fits a lab: an inventory with its machines, their own configuration, the pinned inputs."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import network
from lab.machine import Machine
from smallkube.workspace import Workspace, write_file

HOST = """\
# {name} of the lab. What a real machine needs to boot and to be reached stands in a file like this.
{{
  nixpkgs.hostPlatform = "{system}";
  networking.hostName = "{name}";
  services.openssh.enable = true;
  system.stateVersion = "25.11";
}}
"""
STAND_INS = {
    "nixpkgs": ("/opt/smallkube-lab/nix", {"owner": "NixOS", "repo": "nixpkgs", "ref": "nixos-25.11"}),
    "agenix": ("/opt/smallkube-lab/nix/agenix", {"owner": "ryantm", "repo": "agenix"}),
}
"""Input of the rendered flake to the folder on a lab machine that stands in for it, and where it really comes from."""


def inventory(machines: Sequence[Machine], cluster: str) -> str:
    """inventory.yaml of a cluster of these machines."""
    lines = ["cluster:", f"  name: {cluster}", "nodes:"]
    for machine in machines:
        host = network.operator_address(machine.number, machine.index)
        lines += [
            f"  {machine.name}:",
            f"    peer_ip: {network.peer_address(machine.index)}",
            f"    ssh: {{host: {host}, port: {network.SSH_PORT}}}",
        ]
    return "".join(f"{line}\n" for line in lines)


def flake_lock(hashes: dict[str, str]) -> str:
    """nix/flake.lock that pins the inputs to the stand-ins on the lab's machines; ``hashes`` are their NAR hashes."""
    nodes: dict[str, Any] = {"root": {"inputs": {name: name for name in STAND_INS}}}
    for name, (path, origin) in STAND_INS.items():
        locked = {"type": "path", "path": path, "narHash": hashes[name]}
        nodes[name] = {"locked": locked, "original": {"type": "github", **origin}}
    nodes["agenix"]["inputs"] = {"nixpkgs": ["nixpkgs"]}
    return json.dumps({"nodes": nodes, "root": "root", "version": 7}, indent=2, sort_keys=True) + "\n"


def write(place: Path, machines: Sequence[Machine], key: Path) -> None:
    """Write what is not there yet; files that a person may have edited stay, the key and the pins are renewed."""
    space = Workspace(place)
    space.root.mkdir(parents=True, exist_ok=True)
    space.state_dir.mkdir(mode=0o700, exist_ok=True)
    write_file(space.state_dir / "ssh_key", key.read_bytes(), 0o600)
    ignore = space.root / ".gitignore"
    if not ignore.exists():
        write_file(ignore, "/.smallkube/\n/keys/master_key\n")
    if not space.inventory_file.exists():
        write_file(space.inventory_file, inventory(machines, "lab"))
    system = f"{platform.machine()}-linux"
    for machine in machines:
        host = space.hosts_dir / f"{machine.name}.nix"
        if not host.exists():
            write_file(host, HOST.format(name=machine.name, system=system))
    hashes = {name: machines[0].check("nix", "hash", "path", path).strip() for name, (path, _) in STAND_INS.items()}
    write_file(space.flake_lock, flake_lock(hashes))


def forget_key(place: Path, key: Path) -> None:
    """Remove the lab's key from a workspace that stays."""
    copy = Workspace(place).state_dir / "ssh_key"
    if key.is_file() and copy.is_file() and copy.read_bytes() == key.read_bytes():
        copy.unlink()
