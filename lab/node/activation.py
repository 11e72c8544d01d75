"""Makes a system's files, accounts, secrets and kernel settings the machine's own: NixOS' ``activate``.

It runs before systemd when the machine starts, and from switch-to-configuration afterwards. It does not touch units.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.node import accounts, files, report, secrets, wireguard
from lab.node.shell import run, warn
from lab.node.system import CURRENT, System
from lab.node.unitfile import parse

ETC = Path("/etc")
STATE = Path("/var/lib/smallkube-lab")
RUN = Path("/run/smallkube-lab")
GC_ROOTS = Path("/nix/var/nix/gcroots")
KNOWN = frozenset(
    [
        "node",
        "version",
        "units",
        "networkd",
        "etc",
        "nftables",
        "users",
        "groups",
        "baseUsers",
        "baseGroups",
        "sysctl",
        "kernelModules",
        "hosts",
        "tmpfiles",
        "activationScripts",
        "secrets",
        "identityPaths",
        "packages",
        "scripts",
        "failedAssertions",
        "warnings",
        "unsupported",
        "missing",
        "links",
    ]
)
BUILT_IN = {"br_netfilter": "/proc/sys/net/bridge"}
"""What a module brings that leaves no trace in /sys/module where the kernel has it built in."""

DNS_DELEGATES = "systemd/dns-delegate.d/"
SYSTEMD_WITH_DELEGATES = 258

SNIPPETS_BEGIN = """\
_status=0
_localstatus=0
trap '_status=1 _localstatus=$?' ERR
systemConfig=$1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C
umask 0022
"""
SNIPPET = """
_localstatus=0
{text}
if (( _localstatus > 0 )); then
  echo "activation script {name} failed ($_localstatus)" >&2
fi
"""


def activate(system: System) -> bool:
    """Activate ``system``. Returns whether all went well; as on NixOS, a fault does not stop the rest."""
    RUN.mkdir(parents=True, exist_ok=True)
    manifest = system.manifest
    devices = _probe_wireguard(system)
    good = accounts.apply(manifest, STATE / "accounts.json")
    files.place(system, ETC, STATE, devices)
    good &= secrets.decrypt(manifest.get("secrets", {}), manifest.get("identityPaths", []))
    good &= _run_scripts(system, manifest.get("activationScripts", []))
    kernel = [*_load_modules(manifest.get("kernelModules", [])), *_set_sysctl(manifest.get("sysctl", {}))]
    _flip_current(system)
    report.save(
        report.Report(
            missing=manifest["missing"],
            wireguard=[] if devices else sorted(_wireguard_devices(system)),
            unsupported=manifest.get("unsupported", []),
            kernel=kernel,
            other=_other(manifest),
        )
    )
    return good


def _netdevs(system: System) -> list[Path]:
    folder = system.path / "lab/netdevs"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _wireguard_devices(system: System) -> list[str]:
    names = (parse(path.read_text())["NetDev"]["Name"][-1] for path in _netdevs(system))
    return sorted(names)


def _probe_wireguard(system: System) -> dict[str, Path]:
    """Links that hand the WireGuard devices to networkd, when the kernel can make one; none otherwise."""
    netdevs = _netdevs(system)
    mark = Path(wireguard.KERNEL_MARK)
    if netdevs and not mark.exists() and run(["ip", "link", "add", "lab-probe", "type", "wireguard"], quiet=True):
        run(["ip", "link", "delete", "lab-probe"])
        mark.touch()
    if not mark.exists():
        return {}
    return {f"systemd/network/{path.name}": CURRENT / "lab/netdevs" / path.name for path in netdevs}


def _run_scripts(system: System, scripts: Sequence[Mapping[str, str]]) -> bool:
    body = "".join(SNIPPET.format(name=script["name"], text=script["text"]) for script in scripts if script["text"])
    if not body:
        return True
    program = f"{SNIPPETS_BEGIN}{body}\nexit $_status\n"
    done = subprocess.run(["bash", "-s", str(system.path)], input=program, text=True, check=False)
    return done.returncode == 0


def _load_modules(modules: Sequence[str]) -> list[str]:
    lacking = []
    for module in modules:
        name = module.replace("-", "_")
        if not Path(BUILT_IN.get(name, f"/sys/module/{name}")).exists() and not run(["modprobe", module], quiet=True):
            lacking.append(f"kernel module {module} could not be loaded from inside the machine")
    return lacking


def _set_sysctl(settings: Mapping[str, Any]) -> list[str]:
    lacking = []
    for key, value in settings.items():
        path = Path("/proc/sys", *key.split("/" if "/" in key else "."))
        try:
            if path.read_text().split() != str(value).split():
                path.write_text(str(value))
        except OSError as error:
            lacking.append(f"kernel setting {key} = {value} could not be made: {error.strerror}")
    return lacking


def _flip_current(system: System) -> None:
    fresh = CURRENT.with_name("current-system.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(system.path)
    fresh.replace(CURRENT)
    GC_ROOTS.mkdir(parents=True, exist_ok=True)
    for name in ("current-system", "booted-system"):
        root = GC_ROOTS / name
        if not root.is_symlink():
            root.symlink_to(f"/run/{name}")


def _other(manifest: Mapping[str, Any]) -> list[str]:
    said = [f"unit {name} is Debian's here" for name in manifest.get("units", {}) if name in ("sshd.service",)]
    said += [f"the lab does not apply {name}" for name in sorted(manifest.keys() - KNOWN)]
    said += [
        f"secret {name} is linked to {secret['path']}, not copied"
        for name, secret in manifest.get("secrets", {}).items()
        if secret.get("symlink") is False
    ]
    if any(name.startswith(DNS_DELEGATES) for name in manifest.get("etc", {})) and _systemd() < SYSTEMD_WITH_DELEGATES:
        said.append(f"systemd {_systemd()} here does not know DNS delegates (needs {SYSTEMD_WITH_DELEGATES})")
    return said


def _systemd() -> int:
    done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def main(path: str) -> int:
    """Activate the system at ``path``; 0 when all went well."""
    if os.geteuid() != 0:
        warn("activating a system needs root")
        return 1
    return 0 if activate(System(Path(path))) else 1
