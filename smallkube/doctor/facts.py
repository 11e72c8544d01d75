"""The facts of this machine that tasks depend on; reads only, and judges nothing."""

import os
import platform
import re
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from smallkube.core import git, process
from smallkube.core.errors import ErrorGroup, SmallkubeError
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.doctor.table import TOOLS, Family, Tool
from smallkube.nix import lockfile

_LIBRARY_FOLDERS = ("/lib/systemd", "/usr/lib/systemd", "/run/current-system/sw/lib/systemd")


@dataclass(frozen=True)
class Facts:
    """``programs`` maps those that are here to their version ("" when they don't say).

    ``packages`` are the installed Python packages with versions, ``required`` and ``required_for_tests`` the
    requirements of pyproject.toml. ``inventory`` is None when there is no such file, else "" or what is wrong with it,
    and then no ``nodes`` are known; ``master_mode`` is that of the file ``identity``, None when there is none;
    ``exposed``: see ``core.git``. ``lock`` is None without nix/flake.lock, else "" or what is wrong with it.
    """

    family: Family
    distribution: str
    python: str
    packages: Mapping[str, str]
    required: Sequence[str]
    required_for_tests: Sequence[str]
    programs: Mapping[str, str]
    root: bool
    tun: bool
    inventory: str | None
    nodes: Sequence[str]
    without_host_key: Sequence[str]
    identity: str
    master_mode: int | None
    exposed: Mapping[str, tuple[str, str]]
    lock: str | None = None


def read(workspace: Workspace) -> Facts:
    """Everything that ``diagnosis.diagnose`` judges. Works with nothing installed but Invoke."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    where, distribution = _distribution()
    wrong, nodes = _inventory(workspace)
    master, lock = workspace.identity_file, workspace.read(workspace.flake_lock)
    with ThreadPoolExecutor() as pool:
        programs = {name: version for found in pool.map(_installed, TOOLS) for name, version in found.items()}
    return Facts(
        family=where,
        distribution=distribution,
        python=platform.python_version(),
        packages={str(found.metadata["Name"]): found.version for found in metadata.distributions()},
        required=tuple(project["dependencies"]),
        required_for_tests=tuple(project["optional-dependencies"]["test"]),
        programs=programs,
        root=os.geteuid() == 0,
        tun=Path("/dev/net/tun").is_char_device(),
        inventory=wrong,
        nodes=nodes,
        without_host_key=[name for name in nodes if not (workspace.hosts_keys_dir / f"{name}.pub").is_file()],
        identity=workspace.relative(master),
        master_mode=master.stat().st_mode & 0o7777 if master.is_file() else None,
        exposed=git.exposed(workspace),
        lock=None if lock is None else _lock_fault(workspace, lock),
    )


def _lock_fault(workspace: Workspace, lock: bytes) -> str:
    return lockfile.complaint(lock, workspace.read(workspace.flake_file) or b"", datetime.now(UTC))


def _installed(tool: Tool) -> dict[str, str]:
    """Those of its programs that are here, and the version of the first."""
    paths = {name: process.find(name, *_LIBRARY_FOLDERS) for name in tool.programs}
    first = tool.programs[0]
    return {name: _version(path, tool.version) if name == first else "" for name, path in paths.items() if path}


def _version(program: str, arguments: tuple[str, ...]) -> str:
    if not arguments:
        return ""
    try:
        reply = process.run([program, *arguments], timeout=10)
    except SmallkubeError:
        return ""
    found = re.search(r"\d+(\.\w+)+|\b\d{3}\b", reply.stdout + reply.stderr)
    return found[0] if found else ""


def _distribution() -> tuple[Family, str]:
    """By os-release(5)."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return Family.OTHER, platform.system()
    return Family.of(f"{release['ID']} {release.get('ID_LIKE', '')}"), release["PRETTY_NAME"]


def _inventory(workspace: Workspace) -> tuple[str | None, tuple[str, ...]]:
    """What is wrong with the inventory ("" nothing, None there is none), and the names of the nodes."""
    if not workspace.inventory_file.is_file():
        return None, ()
    try:
        from smallkube.inventory.load import load

        return "", tuple(node.name for node in load(workspace.inventory_file).nodes)
    except ErrorGroup as error:
        return error.message, ()
    except SmallkubeError:
        return "can't be read", ()
    except ImportError as error:
        return f"not read: no {error.name}", ()
