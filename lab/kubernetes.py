"""The programs of Kubernetes for the lab's machines, built here once from the modules that ``lab/go`` pins.

Each folder of ``lab/go`` is a Go module whose ``tool`` lines are main packages of the project it requires, or which has
a main package of its own; go.sum holds the checksums of all that is fetched. What is on PATH already, in the pinned
minor version and without need of shared libraries (which a machine of the lab may not have), is copied instead. The
folder is made beside its final place and renamed when it is complete; an interrupted build goes on where it was.
"""

import hashlib
import re
import shutil
import struct
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lab import gobuild, toolchain
from lab.bar import Bar
from lab.command import run, waiting_lock
from lab.removal import remove_tree
from smallkube.core.errors import SmallkubeError, UsageError

MODULES = Path(__file__).with_name("go")
LOG = "kubernetes-build.log"
PREFIX = Path("opt/smallkube-lab/kubernetes")
"""Where the programs are on a machine: the folder as a whole is layered over its disk, like the lab's own programs."""
NAME = "kubernetes-"
BUILDING = f"{NAME}building-"
"""What of a folder is built already, instead of NAME."""
PT_INTERP = 3


@dataclass(frozen=True)
class Recipe:
    """What one module of ``lab/go`` gives: program to package, and how the pinned module is built.

    ``stamps`` are linker variables that get the pinned version. ``cgo``: C sources are compiled too; the program is
    then linked statically, against this machine's libseccomp.
    """

    module: str
    source: str
    programs: tuple[tuple[str, str], ...]
    stamps: tuple[str, ...] = ()
    tags: str = ""
    cgo: bool = False


KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
RECIPES = (
    Recipe(
        "etcd",
        "go.etcd.io/etcd/server/v3",
        (
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
            ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
        ),
    ),
    Recipe(
        "kubernetes",
        "k8s.io/kubernetes",
        tuple((name, f"k8s.io/kubernetes/cmd/{name}") for name in KUBERNETES),
        ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion"),
    ),
    Recipe("coredns", "github.com/coredns/coredns", (("coredns", "smallkube.lab/coredns"),)),
    Recipe(
        "cri-o",
        "github.com/cri-o/cri-o",
        (("crio", "github.com/cri-o/cri-o/cmd/crio"),),
        tags="seccomp containers_image_openpgp containers_image_ostree_stub exclude_graphdriver_btrfs btrfs_noversion "
        "osusergo netgo sqlite_omit_load_extension",
        cgo=True,
    ),
)
CRIO_SETTINGS = {"crictl.yaml": "crictl.yaml", "contrib/cni/99-loopback.conflist": "cni/net.d/99-loopback.conflist"}
"""Files of CRI-O's source that its package brings below ``etc``."""


def pinned(recipe: Recipe, modules: Path = MODULES) -> str:
    """The version that go.mod demands, such as ``v1.34.2``."""
    text = (modules / recipe.module / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(recipe.source)} (v\S+)( // indirect)?$", text, re.MULTILINE)
    if found is None:
        raise SmallkubeError(f"lab/go/{recipe.module}/go.mod does not pin {recipe.source}")
    return found[1]


def version(modules: Path = MODULES) -> str:
    """The pinned version of Kubernetes itself."""
    return pinned(next(recipe for recipe in RECIPES if recipe.module == "kubernetes"), modules)


def place(cache: Path, modules: Path = MODULES) -> Path:
    """Where the programs are, or would be once built: the same modules and recipes give the same name."""
    files = sorted(path for path in modules.rglob("*") if path.is_file())
    parts = [repr(RECIPES), *(f"{path.relative_to(modules)}\0{path.read_text()}" for path in files)]
    return cache / f"{NAME}{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def built(cache: Path) -> Path | None:
    """The folder with the programs, None when they are not built yet."""
    folder = place(cache)
    return folder if folder.is_dir() else None


def ensure(cache: Path, bar: Bar) -> Path:
    """The folder with the programs; builds them when they are not there yet, and goes on with an interrupted build.

    Raises UsageError when a program for building is missing, SmallkubeError when the build fails.
    """
    folder = place(cache)
    if folder.is_dir():
        return folder
    with waiting_lock(cache / "kubernetes.lock"):
        if not folder.is_dir():
            _build(folder, bar)
    return folder


def _build(folder: Path, bar: Bar) -> None:
    missing = [name for name in ("gcc", "pkg-config") if shutil.which(name) is None]
    if missing:
        hint = f"apt-get install {' '.join(missing)} libc6-dev libseccomp-dev"
        raise UsageError(f"building Kubernetes for the lab needs {', '.join(missing)}", hint=hint)
    work = folder.with_name(folder.name.replace(NAME, BUILDING))
    root, scratch = work / "root", work / "scratch"
    remove_tree(root)
    remove_tree(scratch)
    for made in (root / PREFIX / "bin", scratch):
        made.mkdir(parents=True)
    log = folder.parent / LOG
    log.write_text("")
    go = gobuild.Go(toolchain.ensure(folder.parent, oldest_go(), bar), scratch, log)
    here = {name: Path(found) for recipe in RECIPES for name, _ in recipe.programs if (found := _on_path(recipe, name))}
    builds = [_of(recipe, work / recipe.module, without=here) for recipe in RECIPES]
    gobuild.build(builds, go, bar)
    built = {name: build.executable(package) for build in builds for name, package in build.programs.items()}
    for name, program in (here | built).items():
        shutil.copy(program, root / PREFIX / "bin" / name)
    _crio_extras(root / PREFIX, builds[-1], go)
    root.chmod(0o755)
    root.rename(folder)
    remove_tree(work)


def oldest_go(modules: Path = MODULES) -> tuple[int, ...]:
    """The oldest Go that builds every module, by their go.mod."""
    texts = (file.read_text() for file in modules.glob("*/go.mod"))
    found = (re.search(r"^go ([\d.]+)$", text, re.MULTILINE) for text in texts)
    return max(tuple(int(part) for part in each[1].split(".")) for each in found if each)


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


def _crio_extras(target: Path, crio: gobuild.Build, go: gobuild.Go) -> None:
    """What CRI-O's package has besides: the C program that keeps pods' namespaces, and its settings."""
    source = Path(go.ask(crio, "list", "-m", "-f", "{{.Dir}}", "github.com/cri-o/cri-o").strip())
    sources = sorted((source / "pinns/src").glob("*.c"))
    run(["gcc", "-std=c99", "-Os", "-s", "-static", "-o", target / "bin/pinns", *sources])
    for file, name in CRIO_SETTINGS.items():
        copy = target / "etc" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((source / file).read_text())


def _on_path(recipe: Recipe, name: str) -> str | None:
    found = shutil.which(name)
    return found if found and usable(Path(found), pinned(recipe)) else None


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
