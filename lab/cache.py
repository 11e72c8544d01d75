"""The lab's cache: images, builds of Kubernetes, and what interrupted builds left; which of it no lab needs any more.

A lab that is up holds the folders that its machines' disks are layered over (see lab/removal.py), whatever state folder
it is in, so that no other process removes them.
"""

from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import addons, conformance, disk, hollow, image, kubeadm, kubernetes, processes, toolchain
from lab.cluster import all_labs
from lab.places import Places
from lab.record import Record
from lab.removal import disk_usage, locked_if_free, remove_if_free
from smallkube.core.errors import SmallkubeError

SETS = (*kubernetes.FURTHER.values(), *(each.PROGRAMS for each in (kubernetes, conformance, addons, hollow, kubeadm)))
"""Every set of programs that the lab builds."""
LOCKS = (image.LOCK, disk.LOCK, toolchain.LOCK, *(each.lock for each in SETS))
BUILDING = {
    "building-": (image.LOCK,),
    disk.BUILDING: (disk.LOCK,),
    "go-building-": (toolchain.LOCK,),
    **{each.building: (each.lock,) for each in SETS},
}
"""Beginning of an unfinished folder's name to the locks of builds that use it."""
FINISHED = {
    "image-": (disk.LOCK,),
    "disk-": (),
    "go-": tuple(each.lock for each in SETS),
    **{f"{each.name}-": () for each in SETS},
}
"""The same of finished folders; builds of programs use Go, that of a disk the image."""
IN_USE, CURRENT, OLD, UNFINISHED = "in use", "current", "old", "unfinished"


@dataclass(frozen=True)
class Folder:
    """A folder of the cache: IN_USE by a lab or a build, CURRENT (the next lab takes it), OLD, or UNFINISHED."""

    name: str
    state: str

    def is_removed(self, *, current: bool) -> bool:
        """Whether pruning removes it; ``current``: CURRENT ones too."""
        return self.state in (OLD, UNFINISHED) or (current and self.state == CURRENT)


@dataclass(frozen=True)
class Pruned(Folder):
    """What pruning did with a folder of ``size`` bytes: "removed", "kept" or "failed", with the reason."""

    size: int
    outcome: str
    reason: str = ""


def classify(names: Collection[str], current: Collection[str], used: Collection[str], locks: Set[str]) -> list[Folder]:
    """The folders among ``names`` that the lab made, by name; what else is there is not the lab's.

    ``current`` and ``used`` are names, ``locks`` the locks that builds hold.
    """
    found = []
    for name in sorted(names):
        for start, own in (BUILDING | FINISHED).items():
            if name.startswith(start):
                idle = CURRENT if name in current else UNFINISHED if start in BUILDING else OLD
                found.append(Folder(name, IN_USE if name in used or not locks.isdisjoint(own) else idle))
                break
    return found


def needed(records: Iterable[Record]) -> set[str]:
    """The names of the folders that labs with these records use."""
    return {Path(path).name for record in records for path in (*map(str, record.layers), record.image) if path}


@contextmanager
def survey(places: Places) -> Iterator[list[Folder]]:
    """What the lab has in the cache; no build of what is unfinished resumes while the block runs."""
    if not places.cache.is_dir():
        yield []
        return
    with ExitStack() as stack:
        found = [place for name in LOCKS if (place := places.cache / name).is_file()]
        locks = {place.name for place in found if not stack.enter_context(locked_if_free(place))}
        names = {path.name for path in places.cache.iterdir() if path.is_dir() and not path.is_symlink()}
        # Machines of a lab that crashed may still run, while nothing holds the folders any more.
        running = (record for lab in all_labs(places) if processes.find(lab.folder) and (record := lab.record))
        used = needed(running) | {name for name in names if not _is_free(places.cache / name)}
        yield classify(names, _current(places.cache), used, locks)


def _is_free(folder: Path) -> bool:
    with locked_if_free(folder) as free:
        return free


def _current(cache: Path) -> set[str]:
    names = {image.place(cache).name, f"go-{toolchain.VERSION}"}
    sets = (kubernetes.place(cache), *kubernetes.built_further(cache))
    names |= {disk.place(cache, programs).name for programs in ((), sets)}
    for each in SETS:
        built = each.place(cache)
        names.add(built.name)
        if not built.is_dir():
            names.add(each.unfinished(cache).name)
    return names


def prune(places: Places, *, current: bool = False, dry_run: bool = False) -> list[Pruned]:
    """Remove what no lab needs any more, and with ``current`` what the next lab would take; returns what became of all.

    ``dry_run``: removes nothing, and calls what it would remove "to be removed".
    """
    with survey(places) as folders:
        return [_pruned(places.cache, folder, current, dry_run) for folder in folders]


def _pruned(cache: Path, folder: Folder, current: bool, dry_run: bool) -> Pruned:
    size = disk_usage(cache / folder.name)
    if not folder.is_removed(current=current):
        return Pruned(folder.name, folder.state, size, "kept")
    if dry_run:
        return Pruned(folder.name, folder.state, size, "to be removed")
    try:
        removed = remove_if_free(cache / folder.name)
    except (SmallkubeError, OSError) as error:
        return Pruned(folder.name, folder.state, size, "failed", str(error))
    # Another lab may have come up since the survey.
    return Pruned(folder.name, folder.state, size, "removed") if removed else Pruned(folder.name, IN_USE, size, "kept")
