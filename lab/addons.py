"""The add-ons of the catalogue (nix/addons/catalogue) in the lab: images of their programs, under upstream's names.

They are built only when asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import containers, gobuild
from lab.conformance import layer
from lab.containers import Image
from lab.machine import Machine
from lab.programs import ProgramSet, Recipe, pinned

METRICS_SERVER = Recipe(
    "addons",
    "sigs.k8s.io/metrics-server",
    (("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server"),),
    ("k8s.io/client-go/pkg/version.gitVersion",),
)
LOCAL_PATH = Recipe(
    "addons",
    "github.com/rancher/local-path-provisioner",
    (("local-path-provisioner", "github.com/rancher/local-path-provisioner"),),
    ("main.VERSION",),
)
NETWORK_POLICY = Recipe(
    "network-policy",
    "sigs.k8s.io/kube-network-policies",
    (("netpol", "sigs.k8s.io/kube-network-policies/cmd"),),
)
IMAGES: Mapping[str, tuple[Recipe, str]] = {
    "registry.k8s.io/metrics-server/metrics-server": (METRICS_SERVER, "metrics-server"),
    "docker.io/rancher/local-path-provisioner": (LOCAL_PATH, "usr/bin/local-path-provisioner"),
    "registry.k8s.io/networking/kube-network-policies": (NETWORK_POLICY, "bin/netpol"),
}
"""Image to what it is built from and the path of the program in it; its tag is the version of the module."""
HELPER = "docker.io/library/busybox:1.37"
"""What local-path's helper pods run; every machine of the lab has a busybox under another name."""
QUEUE = "/opt/smallkube-lab/bin/lab-queue"
"""What network-policy's rules need of the kernel, or what stands in for them, until the machine restarts."""


def names() -> list[str]:
    """The images with their tags."""
    return [f"{image}:{pinned(recipe)}" for image, (recipe, _) in IMAGES.items()]


def _finish(target: Path, _builds: Sequence[gobuild.Build], _go: gobuild.Go) -> None:
    """The images, in the folder ``images``."""
    files = [(path, (target / "bin" / recipe.programs[0][0]).read_bytes()) for recipe, path in IMAGES.values()]
    layers = [layer({path: program}, {path: 0o755}) for path, program in files]
    made = [Image(name, [content]) for name, content in zip(names(), layers, strict=True)]
    containers.write_images(target / "images", made)


PROGRAMS = ProgramSet("addons", "the add-ons", (METRICS_SERVER, LOCAL_PATH, NETWORK_POLICY), finish=_finish)


def bring(machine: Machine, folder: Path) -> None:
    """Import the images of ``folder``, which PROGRAMS made, on a machine that runs Kubernetes, and stand in for rules.

    Raises SmallkubeError when it fails.
    """
    containers.bring(machine, folder / PROGRAMS.prefix / "images")
    machine.check("systemctl", "start", containers.UNIT)
    storage = "containers-storage:"
    machine.check("skopeo", "--insecure-policy", "copy", "--quiet", storage + containers.BUSYBOX, storage + HELPER)
    machine.check(QUEUE, "on")
