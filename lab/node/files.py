"""What is in /etc: links into the running system (by way of /etc/static, as on NixOS) and copies with a mode.

What the lab put there is written down, so that it goes away with the configuration that had it; a file of Debian's
that stood in its place is kept aside and comes back then.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.node.system import System

STATIC = "static"


def wanted(system: Path) -> list[str]:
    """The files and links, relative to /etc, that a system has."""
    etc = system / "etc"
    return sorted(str(path.relative_to(etc)) for path in etc.rglob("*") if path.is_symlink() or path.is_file())


def place(system: System, etc: Path, state: Path, extra: Mapping[str, Path]) -> None:
    """Make ``etc`` what ``system`` says; ``extra`` are more links (name to target).

    ``state`` is a folder for the list of what is the lab's and for what Debian had there.
    """
    record, aside = state / "etc.json", state / "etc-of-debian"
    before: list[str] = json.loads(record.read_text()) if record.exists() else []
    entries: Mapping[str, Mapping[str, Any]] = system.manifest.get("etc", {})
    names = wanted(system.path)
    _flip(etc / STATIC, system.path / "etc")
    record.parent.mkdir(parents=True, exist_ok=True)
    _write_record(record, sorted({*before, *names, *extra}))
    for name in names:
        entry = entries.get(name, {"mode": "symlink"})
        if entry["mode"] == "symlink":
            _make_room(name, etc, aside, ours=before)
            _link(etc / name, Path("/etc") / STATIC / name)
        else:
            _make_room(name, etc, aside, ours=before)
            _copy(system.path / "etc" / name, etc / name, entry)
    for name, target in extra.items():
        _make_room(name, etc, aside, ours=before)
        _link(etc / name, target)
    for name in set(before) - set(names) - set(extra):
        _remove(name, etc, aside)
    _write_record(record, sorted({*names, *extra}))


def _write_record(record: Path, names: list[str]) -> None:
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps(names))
    fresh.replace(record)


def _flip(link: Path, target: Path) -> None:
    fresh = link.with_name(f"{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    _flip(path, target)


def _copy(source: Path, path: Path, entry: Mapping[str, Any]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(0o600)
    fresh.write_bytes(source.read_bytes())
    shutil.chown(fresh, owner(entry.get("user", "root")), owner(entry.get("group", "root")))
    fresh.chmod(int(str(entry["mode"]), 8))
    fresh.replace(path)


def owner(name: str) -> str | int:
    """A user or group by name, or by number written as ``0`` or ``+0``."""
    return int(name) if name.lstrip("+").isdigit() else name


def _make_room(name: str, etc: Path, aside: Path, ours: Sequence[str]) -> None:
    path, kept = etc / name, aside / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name not in ours and (path.is_symlink() or path.exists()) and not _is_ours(path):
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.rename(kept)


def _is_ours(path: Path) -> bool:
    return path.is_symlink() and str(path.readlink()).startswith("/etc/static/")


def _remove(name: str, etc: Path, aside: Path) -> None:
    path, kept = etc / name, aside / name
    path.unlink(missing_ok=True)
    if kept.is_symlink() or kept.exists():
        kept.rename(path)
    folder = path.parent
    while folder != etc and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
