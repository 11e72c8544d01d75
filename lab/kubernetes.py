"""The programs of Kubernetes for the lab's machines, built here once from the modules that ``lab/go`` pins.

The set ``PROGRAMS`` is of one minor, with etcd, CoreDNS and CRI-O; each further minor is a set with Kubernetes alone,
which is layered over a machine's disk beside it.
"""

from collections.abc import Sequence
from pathlib import Path

from lab import gobuild
from lab.command import run
from lab.programs import ProgramSet, Recipe, pinned
from smallkube.core.errors import UsageError

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")


def _kubernetes(module: str) -> Recipe:
    stamps = ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion")
    return Recipe(
        module, "k8s.io/kubernetes", tuple((name, f"k8s.io/kubernetes/cmd/{name}") for name in KUBERNETES), stamps
    )


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
    _kubernetes("kubernetes"),
    Recipe("coredns", "github.com/coredns/coredns", (("coredns", "smallkube.lab/coredns"),)),
    Recipe(
        "cri-o",
        "github.com/cri-o/cri-o",
        (("crio", "github.com/cri-o/cri-o/cmd/crio"),),
        tags="seccomp containers_image_openpgp containers_image_ostree_stub exclude_graphdriver_btrfs btrfs_noversion "
        "sqlite_omit_load_extension libsqlite3",
        cgo=True,
    ),
)
CRIO_SETTINGS = {"crictl.yaml": "crictl.yaml", "contrib/cni/99-loopback.conflist": "cni/net.d/99-loopback.conflist"}
"""Files of CRI-O's source that its package brings below ``etc``."""


def version() -> str:
    """The pinned version of Kubernetes itself."""
    return pinned(next(recipe for recipe in RECIPES if recipe.module == "kubernetes"))


def sets(minor: str) -> tuple[ProgramSet, ...]:
    """What machines with this minor have. Raises UsageError when the lab can't build it."""
    if minor == MINOR:
        return (PROGRAMS,)
    if minor not in FURTHER:
        raise UsageError(f"the lab has no Kubernetes {minor}", hint=f"it has {', '.join((MINOR, *FURTHER))}")
    return PROGRAMS, FURTHER[minor]


def built_further(cache: Path) -> tuple[Path, ...]:
    """The folders of the further minors that are built, oldest first."""
    return tuple(folder for each in FURTHER.values() if (folder := each.built(cache)))


def _crio_extras(target: Path, builds: Sequence[gobuild.Build], go: gobuild.Go) -> None:
    """What CRI-O's package has besides: the C program that keeps pods' namespaces, and its settings."""
    source = Path(go.ask(builds[-1], "list", "-m", "-f", "{{.Dir}}", "github.com/cri-o/cri-o").strip())
    sources = sorted((source / "pinns/src").glob("*.c"))
    run(["gcc", "-std=c99", "-Os", "-s", "-static", "-o", target / "bin/pinns", *sources])
    for file, name in CRIO_SETTINGS.items():
        copy = target / "etc" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((source / file).read_text())


PROGRAMS = ProgramSet("kubernetes", "Kubernetes", RECIPES, from_path=True, finish=_crio_extras)
"""The folder as a whole is layered over a machine's disk, like the lab's own programs."""
PREFIX = PROGRAMS.prefix
MINOR = "1.36"
"""Of ``PROGRAMS``."""
FURTHER = {
    minor: ProgramSet(
        f"kubernetes-{minor}", f"Kubernetes {minor}", (_kubernetes(f"kubernetes-{minor}"),), from_path=True
    )
    for minor in ("1.34", "1.35", "1.37")
}
"""Minor → its programs."""
place, built, ensure = PROGRAMS.place, PROGRAMS.built, PROGRAMS.ensure
