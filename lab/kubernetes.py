"""The programs of Kubernetes for the lab's machines, built here once from the modules that ``lab/go`` pins.

Each folder of ``lab/go`` is a Go module whose ``tool`` lines are main packages of the project it requires; go.sum
holds the checksums of all that is fetched. What is on PATH already, in the pinned minor version and without need of
shared libraries (which a machine of the lab may not have), is copied instead. The folder is made beside its final
place and renamed when it is complete.
"""

import hashlib
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.command import run, waiting_lock
from lab.removal import remove_tree
from smallkube.errors import SmallkubeError, UsageError

MODULES = Path(__file__).with_name("go")
LOG = "kubernetes-build.log"
PREFIX = Path("opt/smallkube-lab/kubernetes")
"""Where the programs are on a machine: the folder as a whole lies over its disk, like the lab's own programs."""
STRIPPED = "-s -w"
PT_INTERP = 3
OLDEST_GO = (1, 21)
"""From which on Go fetches the version that a module demands."""
GO_HINT = "go.dev/doc/install; on Debian 13 and newer: apt-get install golang-go"


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
    Recipe("coredns", "github.com/coredns/coredns", (("coredns", "github.com/coredns/coredns"),)),
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
    files = sorted(path for path in modules.rglob("go.*") if path.is_file())
    parts = [repr(RECIPES), *(f"{path.relative_to(modules)}\0{path.read_text()}" for path in files)]
    return cache / f"kubernetes-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def built(cache: Path) -> Path | None:
    """The folder with the programs, None when they are not built yet."""
    folder = place(cache)
    return folder if folder.is_dir() else None


def ensure(cache: Path, say: Callable[[str], None]) -> Path:
    """The folder with the programs; builds them when they are not there yet. ``say`` gets each step.

    Raises UsageError when a program for building is missing, SmallkubeError when the build fails.
    """
    folder = place(cache)
    if folder.is_dir():
        return folder
    with waiting_lock(cache / "kubernetes.lock"):
        for leftover in cache.glob("kubernetes-building-*"):
            remove_tree(leftover)
        if not folder.is_dir():
            _build(folder, say)
    return folder


def _build(folder: Path, say: Callable[[str], None]) -> None:
    missing = [name for name in ("go", "gcc", "pkg-config") if shutil.which(name) is None]
    if missing:
        hint = GO_HINT if "go" in missing else f"apt-get install {' '.join(missing)} libc6-dev libseccomp-dev"
        raise UsageError(f"building Kubernetes for the lab needs {', '.join(missing)}", hint=hint)
    go = run(["go", "env", "GOVERSION"]).strip()
    if (found := re.match(r"go(\d+)\.(\d+)", go)) and (int(found[1]), int(found[2])) < OLDEST_GO:
        raise UsageError(f"building Kubernetes for the lab needs Go 1.21 or newer, not {go}", hint=GO_HINT)
    say("building Kubernetes for the lab (once; some minutes)")
    work = Path(tempfile.mkdtemp(prefix="kubernetes-building-", dir=folder.parent))
    log = folder.parent / LOG
    log.write_text("")
    try:
        target = work / "root" / PREFIX / "bin"
        target.mkdir(parents=True)
        wanted = [(recipe, name, package) for recipe in RECIPES for name, package in recipe.programs]
        for number, (recipe, name, package) in enumerate(wanted, 1):
            say(f"[{number}/{len(wanted) + 1}] {name} {pinned(recipe)}")
            _program(recipe, name, package, target, log)
        say(f"[{len(wanted) + 1}/{len(wanted) + 1}] pinns")
        _crio_extras(target, log)
        (work / "root").chmod(0o755)
        (work / "root").rename(folder)
    finally:
        remove_tree(work)


def _program(recipe: Recipe, name: str, package: str, target: Path, log: Path) -> None:
    wanted = pinned(recipe)
    here = shutil.which(name)
    if here and usable(Path(here), wanted):
        shutil.copy(here, target / name)
        return
    linker = " ".join([STRIPPED, *(f"-X {stamp}={wanted}" for stamp in recipe.stamps)])
    if recipe.cgo:
        linker += " -extldflags -static"
    argv = ["go", "build", "-mod=readonly", "-trimpath", "-tags", recipe.tags, "-ldflags", linker]
    _run(
        [*argv, "-o", str(target / name), package], MODULES / recipe.module, {"CGO_ENABLED": str(int(recipe.cgo))}, log
    )


def _crio_extras(target: Path, log: Path) -> None:
    """What CRI-O's package has besides: the C program that keeps pods' namespaces, and its settings."""
    module = MODULES / "cri-o"
    source = Path(run(["go", "-C", module, "list", "-m", "-f", "{{.Dir}}", "github.com/cri-o/cri-o"]).strip())
    sources = sorted(str(path) for path in (source / "pinns/src").glob("*.c"))
    _run(["gcc", "-std=c99", "-Os", "-s", "-static", "-o", str(target / "pinns"), *sources], module, {}, log)
    for file, name in CRIO_SETTINGS.items():
        copy = target.parent / "etc" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((source / file).read_text())


def _run(argv: Sequence[str], folder: Path, environment: dict[str, str], log: Path) -> None:
    with log.open("a") as sink:
        sink.write(f"$ {' '.join(argv)}\n")
        sink.flush()
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if status:
        last = log.read_text().strip().splitlines()[-1]
        raise SmallkubeError(f"building Kubernetes for the lab failed: {last}", hint=f"the whole output is in {log}")


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
