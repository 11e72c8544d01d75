"""Taking over the configuration of a machine that runs NixOS: what it needs to boot and to be reached, as files in
nix/hosts/."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.models import Node
from smallkube.nix.literal import literal
from smallkube.operations.machines import SCRIPTS
from smallkube.remote import scripts
from smallkube.remote.host import Host

_KEY = re.compile(r"(?:[a-z].* )?(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?")
"""A line of authorized_keys (sshd(8))."""
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)?")
"""Of networking.hostName: empty where DHCP may give it (nixpkgs, nixos/modules/tasks/network-interfaces.nix)."""
_OURS = ("wgkube", "brkube")
SYSTEMS = {"x86_64": "x86_64-linux", "aarch64": "aarch64-linux"}


@dataclass(frozen=True)
class Address:
    """One of `ip -j address`; ``dynamic`` when DHCP or router advertisements gave it."""

    family: str
    local: str
    prefixlen: int
    scope: str
    dynamic: bool = False


@dataclass(frozen=True)
class Interface:
    """The same of an interface."""

    ifname: str = ""
    addr_info: tuple[Address, ...] = ()

    def static(self, family: str) -> list[Address]:
        return [each for each in self.addr_info if (each.family, each.scope, each.dynamic) == (family, "global", False)]


@dataclass(frozen=True)
class Route:
    """A default route of `ip -j route`; ``protocol`` is dhcp, ra, static, boot or kernel."""

    dev: str = ""
    gateway: str = ""
    protocol: str = ""

    @property
    def is_static(self) -> bool:
        return bool(self.gateway) and self.protocol not in ("dhcp", "ra")


@dataclass(frozen=True)
class Found:
    """What ``adopt.sh`` reports; ``loader``: systemd-boot, grub, grub-efi, extlinux or "" where it is unknown."""

    nixos: bool
    machine: str
    hardware: str
    state_version: str
    ssh_keys: tuple[str, ...]
    loader: str
    boot_disk: str
    host_name: str
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    routes6: tuple[Route, ...]
    name_servers: tuple[str, ...]


def read(host: Host) -> Found:
    """Ask the machine. Raises SmallkubeError, also for one that could not be reached again after a deploy."""
    found = scripts.read(host, SCRIPTS.sent("adopt", host.node.ssh.user), Found)
    if not found.nixos:
        raise host.error("does not run NixOS", "install it: docs/operating.md, Install NixOS on a new machine")
    if not found.hardware.strip():
        raise host.error("has no hardware configuration", "run nixos-generate-config on it")
    if not [key for key in found.ssh_keys if _KEY.fullmatch(key)]:
        user = host.node.ssh.user
        reason = f"has no SSH key for {user} in a file; a deploy would lock you out"
        raise host.error(reason, "add one to ~/.ssh/authorized_keys")
    return found


def files(workspace: Workspace, node: Node, found: Found) -> dict[Path, str]:
    """File in nix/hosts → its content. Raises UsageError for a machine of a kind that is unknown."""
    if found.machine not in SYSTEMS:
        raise UsageError(f"is {found.machine[:20]!r}; known are {', '.join(SYSTEMS)}", where=node.name)
    return {
        workspace.hosts_dir / f"{node.name}-hardware.nix": found.hardware.rstrip("\n") + "\n",
        workspace.hosts_dir / f"{node.name}.nix": configuration(node, found),
    }


def configuration(node: Node, found: Found) -> str:
    """NODE.nix for the machine."""
    lines = [
        f"# Taken over from the machine by `inv nodes.adopt --node {node.name}`. It is yours: edit it as you like.",
        "{ lib, ... }:",
        "{",
        f"  imports = [ ./{node.name}-hardware.nix ];",
        "",
        f"  nixpkgs.hostPlatform = lib.mkDefault {literal(SYSTEMS[found.machine])};",
    ]
    if found.state_version:
        lines.append(f"  system.stateVersion = {literal(found.state_version)};")
    else:
        lines.append('  # system.stateVersion = "…"; # not found in /etc/nixos: the release that was first installed')
    parts = {"boot loader": _boot(found), "login": _login(node, found), "network": _net(node, found)}
    for title, settings in parts.items():
        lines += ["", f"  # {title}", *settings]
    return "\n".join([*lines, "}", ""])


def _setting(name: str, value: object) -> str:
    return f"  {name} = {literal(value)};".replace("\n", "\n  ")


def _boot(found: Found) -> Iterator[str]:
    match found.loader:
        case "systemd-boot":
            yield _setting("boot.loader.systemd-boot.enable", True)
            yield _setting("boot.loader.efi.canTouchEfiVariables", True)
        case "grub-efi":
            grub = {"enable": True, "efiSupport": True, "device": "nodev"}
            yield _setting("boot.loader.grub", grub)
            yield _setting("boot.loader.efi.canTouchEfiVariables", True)
        case "grub" if found.boot_disk:
            yield _setting("boot.loader.grub", {"enable": True, "device": found.boot_disk})
        case "extlinux":
            yield _setting("boot.loader.grub.enable", False)
            yield _setting("boot.loader.generic-extlinux-compatible.enable", True)
        case _:
            yield "  # Not recognized: bring over boot.loader from the machine's configuration before the first deploy."


def _login(node: Node, found: Found) -> Iterator[str]:
    user, keys = node.ssh.user, list(dict.fromkeys(key for key in found.ssh_keys if _KEY.fullmatch(key)))
    if user != "root":
        yield _setting(f"users.users.{literal(user)}", {"isNormalUser": True, "extraGroups": ["wheel"]})
        yield _setting("security.sudo.wheelNeedsPassword", False)
    yield _setting(f"users.users.{literal(user)}.openssh.authorizedKeys.keys", keys)


def _net(node: Node, found: Found) -> Iterator[str]:
    """The host name, and static addresses and gateways of the interfaces that matter; DHCP, the default, for others."""
    routes = (("defaultGateway", found.routes), ("defaultGateway6", found.routes6))
    wanted = {route.dev for _, each in routes for route in each} - {*_OURS}
    ours = {node.peer_ip, node.ssh.host}
    wanted |= {each.ifname for each in found.interfaces if ours & {one.local for one in each.addr_info}}
    if _HOST_NAME.fullmatch(found.host_name):
        yield _setting("networking.hostName", found.host_name)
    named = False
    for interface in (each for each in found.interfaces if each.ifname in wanted - {*_OURS}):
        four, six = interface.static("inet"), interface.static("inet6")
        settings: dict[str, object] = {"useDHCP": False} if four else {}
        for family, addresses in (("ipv4", four), ("ipv6", six)):
            if addresses:
                listed = [{"address": each.local, "prefixLength": each.prefixlen} for each in addresses]
                settings[family] = {"addresses": listed}
        if settings:
            named = True
            yield _setting(f"networking.interfaces.{literal(interface.ifname)}", settings)
    for name, each in routes:
        if gateway := next((route for route in each if route.is_static and route.dev not in _OURS), None):
            named = True
            yield _setting(f"networking.{name}", {"address": gateway.gateway, "interface": gateway.dev})
    if named and found.name_servers:
        yield _setting("networking.nameservers", list(found.name_servers))
    if not named:
        yield "  # DHCP, which is the default."
