"""WireGuard where the kernel has none: wireguard-go on a tun device, set up from the same .netdev file.

A netdev of the kind wireguard is given to systemd-networkd only when the kernel knows the kind. Otherwise a unit of
the lab runs wireguard-go, and ``wg`` gets the settings whenever networkd has started, which then does the same to
a device of the kernel: it keeps the device and replaces all its peers (wireguard_set_interface of systemd).
The .network file applies to the device as it is.
"""

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.node.unitfile import parse

KERNEL_MARK = "/run/smallkube-lab/kernel-wireguard"
"""A file that is there when the kernel has WireGuard."""

UNIT = """\
[Unit]
Description=WireGuard device {device} in user space (the lab's kernel has none)
ConditionPathExists=!{mark}
DefaultDependencies=no
Conflicts=shutdown.target
After=systemd-tmpfiles-setup-dev.service
Before=network.target shutdown.target

[Service]
Type=exec
Environment=WG_PROCESS_FOREGROUND=1
ExecStart=/usr/bin/wireguard-go --foreground {device}
ExecStartPost=/opt/smallkube-lab/bin/lab-wireguard {device} /run/current-system/lab/netdevs/{file}
Restart=on-failure
RestartSec=2
StandardOutput=null
"""

SETTINGS_UNIT = """\
[Unit]
Description=Settings of the WireGuard device {device} in user space, as systemd-networkd would make them
ConditionPathExists=!{mark}
DefaultDependencies=no
Conflicts=shutdown.target
After=lab-wireguard-{device}.service
Before=shutdown.target
PartOf=systemd-networkd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/smallkube-lab/bin/lab-wireguard {device} /run/current-system/lab/netdevs/{file}
"""


def is_wireguard(text: str) -> bool:
    """Whether a networkd file defines a WireGuard device."""
    return parse(text).get("NetDev", {}).get("Kind") == ["wireguard"]


def units(networkd: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The lab's units for the WireGuard devices among the networkd files, in the description's form."""
    made = {}
    for file, text in networkd.items():
        if is_wireguard(text):
            device = parse(text)["NetDev"]["Name"][-1]
            for name, unit in ((f"lab-wireguard-{device}", UNIT), (f"lab-wireguard-{device}-settings", SETTINGS_UNIT)):
                filled = unit.format(device=device, mark=KERNEL_MARK, file=file)
                made[f"{name}.service"] = {"text": filled, "wantedBy": ["multi-user.target"]}
    return made


def mtu(netdev: str) -> str | None:
    """The device's MTU in bytes, when the file sets it."""
    values = parse(netdev).get("NetDev", {}).get("MTUBytes")
    return values[-1] if values else None


def settings(netdev: str, read: Callable[[str], str]) -> str:
    """The input of ``wg setconf`` for a .netdev file (systemd.netdev(5), wg(8)); ``read`` gives a key file's text."""
    lines = ["[Interface]"]
    section = "Interface"
    known = {
        "PrivateKey": "PrivateKey", "ListenPort": "ListenPort", "FirewallMark": "FwMark", "PublicKey": "PublicKey",
        "PresharedKey": "PresharedKey", "Endpoint": "Endpoint", "PersistentKeepalive": "PersistentKeepalive",
    }  # fmt: skip
    for raw in netdev.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line[1:-1]
            if section == "WireGuardPeer":
                lines.append("[Peer]")
            continue
        key, _, value = (part.strip() for part in line.partition("="))
        if not section.startswith("WireGuard") or not value:
            continue
        if key in known:
            lines.append(f"{known[key]} = {value}")
        elif key.removesuffix("File") in known:
            lines.append(f"{key.removesuffix('File')} = {read(value).strip()}")
        elif key == "AllowedIPs":
            lines.append(f"AllowedIPs = {value.replace(' ', '') if ',' in value else ', '.join(value.split())}")
    return "".join(f"{line}\n" for line in lines)


def main(device: str, file: str) -> int:
    """Give a device the settings of a .netdev file; those that it had are forgotten, sessions too."""
    netdev = Path(file).read_text()
    control = Path(f"/run/wireguard/{device}.sock")
    deadline = time.monotonic() + 10
    while not control.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    text = settings(netdev, lambda path: Path(path).read_text())
    # As soon as networkd has started, even if it takes its time (nix/modules/wireguard.nix).
    subprocess.run(["systemctl", "start", "systemd-networkd.service"], check=False)
    # Keys go through standard input: a command line can be read by every local user.
    done = subprocess.run(["wg", "setconf", device, "/dev/stdin"], input=text, text=True, check=False)
    size = mtu(netdev)
    if done.returncode or size is None:
        return done.returncode
    return subprocess.run(["ip", "link", "set", device, "mtu", size], check=False).returncode
