"""A power cut in the middle of a change of keys/: the next command finds all of it or none.

A disk that drops what was not synced is modelled, for none can be had without modules of the kernel. Of each file the
content is that of its last sync, nothing if there was none; the names in each folder are those of its last sync or
those at the moment of the cut, in any combination of folders.
"""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from smallkube.core import syncfs
from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.secrets.transaction import changing_keys, commit

BEFORE = {"changed.age": b"before", "gone.age": b"gone", "hosts/node1.pub": b"one"}
CHANGE = {"changed.age": b"after", "gone.age": None, "hosts/node2.pub": b"two"}
MANY = {f"new{number}.age": b"new" for number in range(15)}

Image = dict[str, bytes]


class Disk:
    """What of ``root`` is durable; ``images`` are the trees that a cut can leave, before each change of a name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}
        self.images: list[Image] = []
        self._known: set[frozenset[tuple[str, bytes]]] = set()

    def sync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self.names[path] = self._names(path)
        else:
            self.contents[path.stat().st_ino] = path.read_bytes()

    def sync_all(self, _: Path) -> bool:
        self.settle()
        return True

    def settle(self) -> None:
        for folder in self._folders():
            self.names[folder] = self._names(folder)
        self.contents |= {path.stat().st_ino: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.rename", "os.remove") and str(arguments[0]).startswith(str(self.root)):
            self.cut()

    def cut(self) -> None:
        folders = [*self._folders()]
        for kept in product((True, False), repeat=len(folders)):
            image = {}
            for folder, now in zip(folders, kept, strict=True):
                for name, inode in (self._names(folder) if now else self.names.get(folder, {})).items():
                    image[str((folder / name).relative_to(self.root))] = self.contents.get(inode, b"")
            if (known := frozenset(image.items())) not in self._known:
                self._known.add(known)
                self.images.append(image)

    def _folders(self) -> Iterator[Path]:
        yield from (path for path in (self.root, *self.root.rglob("*")) if path.is_dir())

    def _names(self, folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}


_disks: list[Disk] = []
sys.addaudithook(lambda event, arguments: _disks[0].audit(event, arguments) if _disks else None)


def cuts(root: Path, change: dict[str, bytes | None]) -> Disk:
    """A commit of ``change``, cut everywhere; the last image is of a cut after it."""
    workspace, disk = Workspace(root), Disk(root)
    for name, data in BEFORE.items():
        (workspace.keys_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.keys_dir / name).write_bytes(data)
    workspace.state_dir.mkdir()
    disk.settle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.sync)
        patch.setattr(syncfs, "sync_file_system", disk.sync_all)
        with changing_keys(workspace):
            _disks.append(disk)
            try:
                commit(workspace, change)
            finally:
                _disks.clear()
            seen = len(disk.images)
            disk.cut()
            assert seen > 10
    return disk


def recovered(image: Image, root: Path) -> Image:
    """keys/ after the next command that changes something."""
    for name, data in image.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    with changing_keys(Workspace(root)):
        keys = root / "keys"
        return {
            str(path.relative_to(keys)): path.read_bytes()
            for path in keys.rglob("*")
            if path.is_file() and path.name != "state.json"
        }


@pytest.fixture
def recover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Image], Image]:
    numbers = iter(range(100_000))
    return lambda image: recovered(image, tmp_path / f"after{next(numbers)}")


@pytest.mark.parametrize("new", [{}, MANY], ids=["few", "many"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_change_is_whole_or_has_not_happened(
    new: dict[str, bytes],
    at_once: bool,
    tmp_path: Path,
    recover: Callable[[Image], Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not at_once:
        monkeypatch.setattr(Disk, "sync_all", lambda *_: False)
    change = {**CHANGE, **new}
    after = {name: data for name, data in {**BEFORE, **change}.items() if data is not None}
    disk = cuts(tmp_path / "workspace", change)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    ends = [recover(image) for image in disk.images]
    assert [each for each in ends if each not in (BEFORE, after)] == []
    assert BEFORE in ends and ends[-1] == after


def test_without_syncs_the_change_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the model has the power to show what is missing."""
    monkeypatch.setattr(Disk, "sync", lambda *_: None)
    monkeypatch.setattr(Disk, "sync_all", lambda *_: True)
    disk = cuts(tmp_path / "workspace", {**CHANGE, **MANY})
    with pytest.raises(UsageError, match="damaged"):
        for number, image in enumerate(disk.images):
            recovered(image, tmp_path / f"after{number}")
