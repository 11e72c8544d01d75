"""Makes a system out of a description: a folder in the Nix store with everything that is to be on the machine.

``etc/`` is what /etc gets, ``sw/bin`` the system's programs, ``manifest.json`` the description with what was found
missing, ``activate`` and ``bin/switch-to-configuration`` start the lab's programs on it, as on NixOS.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.node import unitfile, wireguard

Description = Mapping[str, Any]

PROGRAMS = Path("/opt/smallkube-lab")
IN_PACKAGES = re.compile(r"/opt/smallkube-lab/pkgs/[^/\s\"':]+/bin(?:/[^\s\"':;)]+)?")
OF_MINOR = re.compile(r"/opt/smallkube-lab/pkgs/kubernetes-(1\.[0-9]+)/")
STORE_PATH = re.compile(r"/nix/store/[0-9a-z]{32}-[^\s\"':;)]+")
BY_DEBIAN = "/usr/lib/systemd/system"
MAX_SCRIPT_BYTES = 1_000_000
KEPT_BY_DEBIAN = frozenset({"ssh.service", "sshd.service", "sshd@.service", "ssh.socket", "sshd.socket"})
FIRST_IN_PATH = ("nixos-rebuild", "nix", "systemd", "coreutils", "util-linux")


def make(description: Description, out: Path, exists: Callable[[str], bool], read: Callable[[str], str]) -> None:
    """Write the system into the new folder ``out``.

    ``exists`` tells whether a program or folder is on this machine, ``read`` gives a generated script's text (nothing
    for what is no script).
    """
    (out / "etc").mkdir(parents=True)
    missing = _units(description, out / "etc/systemd/system", exists, read)
    _refuse_minor(missing, exists)
    _networkd(description, out)
    _etc(description.get("etc", {}), out / "etc")
    _settings(description, out / "etc")
    _programs(description.get("packages", []), out / "sw/bin")
    manifest = {**description, "missing": missing, "links": _links(description)}
    _write(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))
    _write(out / "nixos-version", str(description.get("version", "smallkube lab")))
    _write(out / "system", "x86_64-linux")
    for place, program in (("activate", "activate"), ("bin/switch-to-configuration", "switch-to-configuration")):
        _write(out / place, f'#!/bin/sh\nexec {PROGRAMS}/bin/{program} {out} "$@"\n', executable=True)


def _refuse_minor(missing: Mapping[str, Sequence[str]], exists: Callable[[str], bool]) -> None:
    """End the build when this machine has Kubernetes, but not of the minor that the units start."""
    other = {match[1] for paths in missing.values() for path in paths if (match := OF_MINOR.match(path))}
    if other and exists(f"{PROGRAMS}/kubernetes/bin"):
        minor = max(other)
        raise SystemExit(
            f"error: the machines of this lab have no Kubernetes {minor}: inv lab.down,"
            f" inv lab.kubernetes --minor {minor}, then inv lab.up --kubernetes-minor {minor}"
        )


def _units(
    description: Description, folder: Path, exists: Callable[[str], bool], read: Callable[[str], str]
) -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    units = {name: unit for name, unit in description.get("units", {}).items() if name not in KEPT_BY_DEBIAN}
    for name, unit in {**units, **wireguard.units(description.get("networkd", {}))}.items():
        text = unit["text"]
        lacking = sorted(path for path in programs_of(text, read) if not exists(path))
        if lacking:
            missing[name] = lacking
            text += "".join(f"\n[Unit]\nConditionPathExists={path}\n" for path in lacking)
        path = folder / f"{name}.d/overrides.conf" if unit.get("dropin") else folder / name
        if unit.get("enable", True):
            _write(path, text)
        else:
            _link(path, "/dev/null")
        for kind in ("wants", "requires", "upholds"):
            for target in unit.get({"wants": "wantedBy", "requires": "requiredBy", "upholds": "upheldBy"}[kind], []):
                _link(folder / f"{target}.{kind}" / name, f"{BY_DEBIAN}/{name}" if unit.get("dropin") else f"../{name}")
        for alias in unit.get("aliases", []):
            _link(folder / alias, name)
    return missing


def programs_of(text: str, read: Callable[[str], str]) -> set[str]:
    """What a unit needs of the lab's packages: programs, and the ``bin`` folders in its PATH and in its scripts'."""
    found: set[str] = set()
    pending = [*unitfile.commands(text), *unitfile.parse(text).get("Service", {}).get("Environment", [])]
    seen: set[str] = set()
    while pending:
        body = pending.pop()
        found.update(IN_PACKAGES.findall(body))
        for path in set(STORE_PATH.findall(body)) - seen:
            seen.add(path)
            pending.append(read(path))
    return found


def script_text(path: str) -> str:
    """The text of a generated script, nothing when the file is none."""
    file = Path(path)
    with suppress(OSError, UnicodeDecodeError):
        if file.stat().st_size < MAX_SCRIPT_BYTES:
            return file.read_text()
    return ""


def _networkd(description: Description, out: Path) -> None:
    for name, text in description.get("networkd", {}).items():
        if wireguard.is_wireguard(text):
            folder = out / "lab/netdevs"
        else:
            folder = out / "etc/systemd" / ("." if name == "networkd.conf" else "network")
        _write(folder / name, text)


def _etc(entries: Mapping[str, Mapping[str, Any]], etc: Path) -> None:
    for name, entry in entries.items():
        if entry.get("text") is not None:
            _write(etc / name, entry["text"])
        else:
            _link(etc / name, entry["source"])


def _settings(description: Description, etc: Path) -> None:
    if description.get("hosts"):
        _write(etc / "hosts", description["hosts"])
    settings = {
        "sysctl.d/60-nixos.conf": [f"{key} = {value}" for key, value in description.get("sysctl", {}).items()],
        "modules-load.d/nixos.conf": description.get("kernelModules", []),
        "tmpfiles.d/00-nixos.conf": description.get("tmpfiles", []),
    }
    for name, lines in settings.items():
        _write(etc / name, "".join(f"{line}\n" for line in lines))


def _programs(packages: Iterable[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    for package in (*(f"{PROGRAMS}/pkgs/{name}" for name in FIRST_IN_PATH), *packages):
        programs = Path(package) / "bin"
        for program in sorted(programs.iterdir()) if programs.is_dir() else []:
            if not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)


def _links(description: Description) -> dict[str, list[str]]:
    """Which units start which: by target."""
    by_target: dict[str, list[str]] = {}
    for name, unit in description.get("units", {}).items():
        for target in (*unit.get("wantedBy", []), *unit.get("requiredBy", []), *unit.get("upheldBy", [])):
            by_target.setdefault(target, []).append(name)
    for name, unit in wireguard.units(description.get("networkd", {})).items():
        for target in unit["wantedBy"]:
            by_target.setdefault(target, []).append(name)
    return by_target


def _write(path: Path, text: str, *, executable: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if executable:
        path.chmod(0o755)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
