"""The programs that will read a node's generated files, asked beforehand what they think of them.

Each function takes a description and a private folder and returns complaints, or why it can't say anything here.
Facts: systemd-analyze(1) verify, nft(8) --check, shellcheck(1); systemd-networkd has no check mode, so it is started
on the files in a network and mount namespace of its own and stopped once it has read them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smallkube.core import process
from smallkube.nix.evaluate import Description

_NETWORKD_TIMEOUT = 20
_STUB = "/bin/true"


@dataclass(frozen=True)
class Unavailable:
    """This machine can't answer the question, and why."""

    reason: str


Answer = tuple[str, ...] | Unavailable


def unit_files(description: Description, folder: Path) -> Answer:
    """``systemd-analyze verify`` of the units that the workspace defines.

    The programs that units start are those of the node, so their paths are replaced by one that exists here.
    """
    program = process.find("systemd-analyze")
    if program is None:
        return Unavailable("systemd-analyze is not installed (Debian: systemd)")
    _write(folder, {name: _with_stubs(unit["text"], unit["dropin"]) for name, unit in description["units"].items()})
    names = sorted(name for name, unit in description["units"].items() if unit["enable"] and unit["own"])
    if not names:
        return ()
    result = process.run(
        [program, "verify", "--man=no", *(folder / name for name in names)],
        environment={"SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_COLORS": "0"},
    )
    if result.stopped:
        return Unavailable("systemd-analyze did not come to an end")
    lines = [line.replace(f"{folder}/", "") for line in result.stderr.splitlines() if _about(line, folder, names)]
    return tuple(dict.fromkeys(lines))


def _with_stubs(text: str, dropin: bool) -> str:
    stubbed = re.sub(r"(?m)^(Exec\w+=)([-@:+!|]*)\S+", rf"\g<1>\g<2>{_STUB}", text)
    return f"{stubbed}\n[Service]\nExecStart={_STUB}\n" if dropin and "ExecStart=" not in stubbed else stubbed


def _about(line: str, folder: Path, names: list[str]) -> bool:
    return any(f"{folder}/{name}" in line or line.startswith(f"{name}:") for name in names)


def rule_set(description: Description, folder: Path) -> Answer:
    """``nft --check`` of the whole rule set, in an empty network namespace."""
    program = process.find("nft")
    if program is None:
        return Unavailable("nft is not installed (Debian: nftables)")
    if not description["nftables"]:
        return ()
    _write(folder, {"rules.nft": description["nftables"]})
    result = process.run([*_namespace(), program, "--check", "--file", folder / "rules.nft"])
    if not result.ok and not process.run([*_namespace(), program, "list", "tables"]).ok:
        return Unavailable("nft can't be run in a network namespace of its own here")
    return () if result.ok else tuple(line for line in result.stderr.replace(f"{folder}/", "").splitlines() if line)


def network_files(description: Description, folder: Path) -> Answer:
    """What systemd-networkd itself says when it reads the node's files: unknown keys, values it ignores."""
    program = process.find("systemd-networkd", "/lib/systemd", "/usr/lib/systemd")
    if program is None:
        return Unavailable("systemd-networkd is not installed (Debian: systemd)")
    if not description["networkd"]:
        return ()
    _write(folder, {name: file["text"] for name, file in description["networkd"].items()})
    isolated = (
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/netif /run/systemd/network && "
        'mount --bind "$1" /run/systemd/network && mount -t tmpfs tmpfs /etc/systemd && exec "$2"'
    )
    result = process.run(
        [*_namespace("--mount"), "sh", "-c", isolated, "sh", folder, program],
        until="Enumeration completed",
        timeout=_NETWORKD_TIMEOUT,
        environment={"SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_LEVEL": "info", "SYSTEMD_COLORS": "0"},
    )
    if result.stopped or "Enumeration completed" not in result.stderr:
        last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Unavailable(f"systemd-networkd can't be run in a namespace here: {last}")
    complaints = [line.partition("/run/systemd/network/")[2] for line in result.stderr.splitlines()]
    own = tuple(name for name, file in description["networkd"].items() if file["own"])
    return tuple(dict.fromkeys(line for line in complaints if line.startswith(own)))


def generated_scripts(description: Description, folder: Path) -> Answer:
    """shellcheck of every generated shell script and of the activation scripts.

    Those run as parts of one script of NixOS, hence without ``set -e`` and with its variables.
    """
    program = process.find("shellcheck")
    if program is None:
        return Unavailable("shellcheck is not installed (Debian: shellcheck)")
    scripts = {f"{name}.sh": text for name, text in description["scripts"].items()}
    scripts |= {
        f"activation-{name}.sh": f"#!/bin/bash\n{text}\n"
        for name, text in description["activationScripts"].items()
        if text
    }
    if not scripts:
        return ()
    _write(folder, scripts)
    result = process.run([program, "--shell=bash", "--format=gcc", *(folder / name for name in sorted(scripts))])
    complaints = tuple(result.stdout.replace(f"{folder}/", "").splitlines())
    return complaints or (() if result.ok else (result.stderr.strip() or "shellcheck failed",))


def _namespace(*more: str) -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", *more, *as_root]


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
