"""Proves which folders of the lab's cache are removed, and that none goes which a lab or a build uses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import cache, image, kubernetes, removal, toolchain
from lab.places import Places
from lab.record import Record
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY

CURRENT = {"image-new", "disk-new", "kubernetes-new", "kubernetes-building-new", "go-1.2"}
NAMES = {
    *CURRENT, "image-old", "kubernetes-old", "kubernetes-building-old", "go-1.1", "building-x7", "go-building-x7",
    "image-old.removed", "disk-old", "disk-building-x7", "notes",
}  # fmt: skip


def removed(used: set[str], locks: set[str], *, current: bool = False) -> set[str]:
    found = cache.classify(NAMES, CURRENT, used, locks)
    return {folder.name for folder in found if folder.is_removed(current=current)}


def test_prune_removes_old_and_unfinished_folders() -> None:
    assert removed(set(), set()) == NAMES - CURRENT - {"notes"}
    assert removed(set(), set(), current=True) == NAMES - {"notes"}


def test_prune_keeps_what_labs_use() -> None:
    records = [
        Record(1, "/cache/image-old", "/w", (1,), complete=True, kubernetes="/cache/kubernetes-new"),
        Record(3, "/cache/image-old", "/w", (1,), complete=True, further=("/cache/kubernetes-1.36-old",)),
        Record(2, "", "/w", (1,), complete=True),
        Record(4, "/cache/image-new", "/w", (1,), complete=True, disk="/cache/disk-old"),
    ]
    used = cache.needed(records)
    assert used == {"image-old", "image-new", "kubernetes-new", "kubernetes-1.36-old", "disk-old"}
    assert removed(used, set(), current=True) == NAMES - used - {"notes"}


@pytest.mark.parametrize(
    ("lock", "kept"),
    [
        ("image.lock", {"building-x7"}),
        ("go.lock", {"go-building-x7"}),
        ("disk.lock", {"disk-building-x7", "image-new", "image-old", "image-old.removed"}),
        (
            "kubernetes.lock",
            {"kubernetes-building-new", "kubernetes-building-old", "go-1.1", "go-1.2"},
        ),
    ],
)
def test_prune_keeps_what_a_build_uses(lock: str, kept: set[str]) -> None:
    assert removed(set(), {lock}, current=True) == NAMES - kept - {"notes"}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A cache with an old and the current image, each a file of 1 MiB, and what a build left; nothing is running."""
    made = Places(tmp_path / "cache", tmp_path / "state")
    for folder in (image.place(made.cache), made.cache / "image-old", made.cache / "building-x7"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(os.urandom(1 << 20))
        (folder / "same").hardlink_to(folder / "file")
    (made.cache / "image.lock").touch()
    return made


def outcomes(found: list[cache.Pruned]) -> dict[str, tuple[str, str]]:
    return {each.name: (each.state, each.outcome) for each in found}


def left(places: Places) -> set[str]:
    return {path.name for path in places.cache.iterdir() if path.is_dir()}


def test_prune_tells_sizes_and_a_dry_run_removes_nothing(places: Places) -> None:
    now = image.place(places.cache).name
    planned = cache.prune(places, dry_run=True)
    assert outcomes(planned) == {
        now: ("current", "kept"),
        "building-x7": ("unfinished", "to be removed"),
        "image-old": ("old", "to be removed"),
    }
    assert [each.size >> 20 for each in planned] == [1, 1, 1]
    assert left(places) == {now, "building-x7", "image-old"}
    assert outcomes(cache.prune(places))["image-old"] == ("old", "removed")
    assert left(places) == {now}
    assert cache.prune(places, current=True)[0].outcome == "removed"
    assert left(places) == set()
    assert cache.prune(Places(places.cache / "missing", places.state)) == []


def test_the_unfinished_build_of_the_current_recipe_resumes(places: Places) -> None:
    built = kubernetes.place(places.cache)
    unfinished = places.cache / built.name.replace("kubernetes-", "kubernetes-building-")
    unfinished.mkdir()
    (places.cache / f"go-{toolchain.VERSION}").mkdir()
    found = outcomes(cache.prune(places))
    assert found[unfinished.name] == found[f"go-{toolchain.VERSION}"] == ("current", "kept")
    built.mkdir()
    assert outcomes(cache.prune(places))[unfinished.name] == ("unfinished", "removed")


@contextmanager
def other_process(program: str, *words: str) -> Iterator[None]:
    """A process that runs ``program`` and then waits until the block ends."""
    argv = [sys.executable, "-c", f"import sys\n{program}\nprint(flush=True)\nsys.stdin.readline()", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout and process.stdout.readline() == "\n"
        try:
            yield
        finally:
            process.kill()


def test_a_folder_that_another_lab_holds_stays(places: Places) -> None:
    hold = (
        "from pathlib import Path; from lab.removal import hold\n"
        "held = hold([Path(sys.argv[1])]); descriptors = held.__enter__()"
    )
    with other_process(hold, str(places.cache / "image-old")):
        assert outcomes(cache.prune(places, current=True))["image-old"] == ("in use", "kept")
        assert not removal.remove_if_free(places.cache / "image-old")
        assert left(places) == {"image-old"}
    assert outcomes(cache.prune(places))["image-old"] == ("old", "removed")


def test_what_a_running_build_makes_stays(places: Places) -> None:
    build = (
        "from pathlib import Path; from lab.command import waiting_lock\n"
        "lock = waiting_lock(Path(sys.argv[1])); lock.__enter__()"
    )
    with other_process(build, str(places.cache / "image.lock")):
        assert outcomes(cache.prune(places))["building-x7"] == ("in use", "kept")
    assert outcomes(cache.prune(places))["building-x7"] == ("unfinished", "removed")


def test_a_folder_removed_a_moment_ago_can_not_be_held(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = places.cache / "image-old"
    with removal.hold([folder]) as held:
        assert len(held) == 1 and not removal.remove_if_free(folder)
    real = os.open

    def removed_after_opening(path: Path, flags: int) -> int:
        descriptor = real(path, flags)
        monkeypatch.undo()
        assert removal.remove_if_free(folder)
        return descriptor

    monkeypatch.setattr(os, "open", removed_after_opening)
    with pytest.raises(SmallkubeError, match="removed a moment ago"), removal.hold([folder]):
        pass
    with pytest.raises(SmallkubeError, match="removed a moment ago"), removal.hold([folder]):
        pass


def test_a_mount_in_the_cache_stays_and_is_reported(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        removal, "mounted_below", lambda folder, _text: [f"{folder}/x"] if folder.name == "image-old" else []
    )
    found = {each.name: each for each in cache.prune(places)}
    assert found["image-old"].outcome == "failed" and "is mounted" in found["image-old"].reason
    assert found["building-x7"].outcome == "removed"
    assert (places.cache / "image-old/file").exists()
