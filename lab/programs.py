"""Programs of Go modules that ``lab/go`` pins, in sets: each is built as a whole, into one folder of the cache.

Each folder of ``lab/go`` is a Go module whose ``tool`` lines are main packages of the project it requires, or which has
main packages of its own; go.sum holds the checksums of all that is fetched. What they share with Kubernetes is pinned
as there, so that Go compiles it once; but etcd keeps its own pins, and CRI-O those that it needs. The folder is made
beside its final place and renamed when it is complete; an interrupted build goes on where it was.
"""

import hashlib
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import gobuild, toolchain
from lab.command import waiting_lock
from lab.removal import remove_tree
from smallkube.cli.bar import Bar
from smallkube.core.errors import SmallkubeError, UsageError

MODULES = Path(__file__).with_name("go")
PT_INTERP = 3


@dataclass(frozen=True)
class Recipe:
    """What one module of ``lab/go`` gives: program to package, and how the pinned module is built.

    ``stamps`` are linker variables that get the pinned version. ``cgo``: C sources are compiled too; the program is
    then linked statically, against this machine's libraries.
    """

    module: str
    source: str
    programs: tuple[tuple[str, str], ...]
    stamps: tuple[str, ...] = ()
    tags: str = ""
    cgo: bool = False


Finish = Callable[[Path, Sequence[gobuild.Build], gobuild.Go], None]
"""Adds to a folder what its set has besides programs; gets the builds in the order of the recipes."""


@dataclass(frozen=True)
class ProgramSet:
    """Programs that are built together, in the folder ``NAME-…`` of the cache.

    ``title`` is what messages call them. ``from_path``: what is on PATH already, in the pinned minor version and
    without need of shared libraries (which a machine of the lab may not have), is copied instead of built. ``scripts``:
    files that say what ``finish`` does; when they change, it is done again.
    """

    name: str
    title: str
    recipes: tuple[Recipe, ...]
    from_path: bool = False
    finish: Finish | None = None
    scripts: tuple[Path, ...] = ()

    @property
    def prefix(self) -> Path:
        """Where the programs are below the folder, and on a machine whose disk is layered over it: in ``bin``."""
        return Path("opt/smallkube-lab") / self.name

    @property
    def lock(self) -> str:
        """Name of the lock that a build holds."""
        return f"{self.name}.lock"

    @property
    def building(self) -> str:
        """Beginning of the name of a folder that is not complete, instead of ``NAME-``."""
        return f"{self.name}-building-"

    def place(self, cache: Path, modules: Path = MODULES) -> Path:
        """Where the programs are, or would be once built: the same modules and recipes give the same name."""
        own = {modules / recipe.module for recipe in self.recipes}
        files = sorted(path for folder in own for path in folder.rglob("*") if path.is_file())
        parts = [repr(self.recipes), *(f"{path.relative_to(modules)}\0{path.read_text()}" for path in files)]
        parts += [script.read_text() for script in self.scripts]
        return cache / f"{self.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"

    def unfinished(self, cache: Path) -> Path:
        """Where the programs are built."""
        return cache / self.place(cache).name.replace(f"{self.name}-", self.building, 1)

    def built(self, cache: Path) -> Path | None:
        """The folder with the programs, None when they are not built yet."""
        folder = self.place(cache)
        return folder if folder.is_dir() else None

    def ensure(self, cache: Path, bar: Bar) -> Path:
        """The folder with the programs; builds them when they are not there yet, and goes on with an interrupted build.

        Raises UsageError when a program for building is missing, SmallkubeError when the build fails.
        """
        folder = self.place(cache)
        if folder.is_dir():
            return folder
        with waiting_lock(cache / self.lock):
            if not folder.is_dir():
                self._build(folder, bar)
        return folder

    def _build(self, folder: Path, bar: Bar) -> None:
        needed = ("gcc", "pkg-config") if any(recipe.cgo for recipe in self.recipes) else ()
        if missing := [name for name in needed if shutil.which(name) is None]:
            hint = f"apt-get install {' '.join(missing)} libc6-dev libseccomp-dev libsqlite3-dev"
            raise UsageError(f"building {self.title} for the lab needs {', '.join(missing)}", hint=hint)
        work = self.unfinished(folder.parent)
        root, scratch = work / "root", work / "scratch"
        remove_tree(root)
        remove_tree(scratch)
        for made in (root / self.prefix / "bin", scratch):
            made.mkdir(parents=True)
        log = folder.parent / f"{self.name}-build.log"
        log.write_text("")
        go = gobuild.Go(toolchain.ensure(folder.parent, self.oldest_go(), bar), scratch, log)
        here = self._on_path() if self.from_path else {}
        builds = [_of(recipe, work / recipe.module, without=here) for recipe in self.recipes]
        gobuild.build(builds, go, bar)
        built = {name: build.executable(package) for build in builds for name, package in build.programs.items()}
        for name, program in (here | built).items():
            shutil.copy(program, root / self.prefix / "bin" / name)
        if self.finish:
            bar.stage("packing")
            self.finish(root / self.prefix, builds, go)
        root.chmod(0o755)
        root.rename(folder)
        remove_tree(work)

    def oldest_go(self, modules: Path = MODULES) -> tuple[int, ...]:
        """The oldest Go that builds every module, by their go.mod."""
        texts = ((modules / recipe.module / "go.mod").read_text() for recipe in self.recipes)
        found = (re.search(r"^go ([\d.]+)$", text, re.MULTILINE) for text in texts)
        return max(tuple(int(part) for part in each[1].split(".")) for each in found if each)

    def _on_path(self) -> dict[str, Path]:
        wanted = ((name, pinned(recipe)) for recipe in self.recipes for name, _ in recipe.programs)
        found = ((name, shutil.which(name), pin) for name, pin in wanted)
        return {name: Path(program) for name, program, pin in found if program and usable(Path(program), pin)}


def pinned(recipe: Recipe, modules: Path = MODULES) -> str:
    """The version that go.mod demands, such as ``v1.34.2``."""
    text = (modules / recipe.module / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(recipe.source)} (v\S+)( // indirect)?$", text, re.MULTILINE)
    if found is None:
        raise SmallkubeError(f"lab/go/{recipe.module}/go.mod does not pin {recipe.source}")
    return found[1]


def _of(recipe: Recipe, target: Path, without: Collection[str]) -> gobuild.Build:
    pin = pinned(recipe)
    return gobuild.Build(
        f"{recipe.module} {pin}",
        MODULES / recipe.module,
        {name: package for name, package in recipe.programs if name not in without},
        target,
        [f"{stamp}={pin}" for stamp in recipe.stamps],
        recipe.tags,
        recipe.cgo,
    )


def usable(program: Path, wanted: str) -> bool:
    """Whether a program of this machine does for the lab: the minor version of ``wanted``, and self-contained."""
    minor = wanted.rpartition(".")[0].removeprefix("v")
    for asked in (["--version"], ["version", "--client"], ["version"], ["-version"]):
        try:
            done = subprocess.run([program, *asked], capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode == 0:
            found = re.search(rf"(?<![\d.])v?{re.escape(minor)}\.\d", done.stdout)
            return found is not None and self_contained(program.read_bytes())
    return False


def self_contained(image: bytes) -> bool:
    """Whether an ELF file (64 bit, little endian; elf(5)) asks for no loader, hence for no shared library."""
    if image[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    kinds = [struct.unpack_from("<I", image, table + size * number)[0] for number in range(count)]
    return PT_INTERP not in kinds
