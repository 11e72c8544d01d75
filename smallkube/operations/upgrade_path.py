"""The minors that an upgrade passes, and the configuration that is deployed for each.

The last one is the workspace as it is. An in-between one is the same inventory with another cluster.kubernetes, whose
Kubernetes is that of the release or of a known revision of nixpkgs. It is rendered and locked in .smallkube/upgrade/,
so that the operator's files are never those of another minor than inventory.yaml names, and a deploy's own checks
hold for it, too. Its lock is nix/flake.lock with another second nixpkgs.

The release of NixOS changes with the first minor: nix/flake.lock pins that of the target only, and the previous one may
get no more updates. Kubernetes does not depend on it: the skew policy knows the minors alone, and all that must match a
minor, etcd too, comes with it. So etcd's patch release is raised on the way before a minor that has etcd 3.7.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.core.files import write_file
from smallkube.core.workspace import Workspace
from smallkube.deploy import etcd_versions
from smallkube.deploy.etcd_versions import EtcdFacts
from smallkube.deploy.plan import locked
from smallkube.etcd.status import ENDPOINT
from smallkube.inventory import releases
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import ClusterSettings, Inventory
from smallkube.kube import versions
from smallkube.nix import flake, lockfile, render
from smallkube.nix.bundle import assemble

PACKAGES = {"kubernetes": "Kubernetes", "etcd": "etcd", "cri-o": "CRI-O"}
"""Package of the flake → its name for a person."""
FIRST_WITH_3_7 = 37
"""Minor of Kubernetes."""
NEW_ENOUGH = ".".join(map(str, etcd_versions.BEFORE_3_7))


def minors(target: str, runs: str) -> tuple[str, ...]:
    """Those that come after ``runs``, up to ``target``; that alone when it runs already."""
    wanted = versions.minor(target)
    return tuple(f"1.{number}" for number in range(min(versions.minor(runs) + 1, wanted), wanted + 1))


def at(inventory: Inventory, minor: str) -> Inventory:
    """The inventory of this minor on the way. Raises SmallkubeError when no nixpkgs with it is known."""
    settings = inventory.cluster
    if minor == settings.kubernetes:
        return inventory
    if releases.RELEASES.get(settings.nixos) != minor and minor not in releases.PINS:
        raise SmallkubeError(
            f"no revision of nixpkgs with {minor}, which comes before {settings.kubernetes}, is known here",
            hint=f"set cluster.kubernetes to {minor} with a cluster.kubernetes_nixpkgs, and upgrade to that first",
        )
    between = settings.model_copy(update={"kubernetes": minor, "kubernetes_nixpkgs": None})
    return inventory.model_copy(update={"cluster": between})


def cluster_at(cluster: Cluster, minor: str) -> Cluster:
    """What is deployed for this minor; the same errors."""
    inventory = at(cluster.inventory, minor)
    return cluster if inventory is cluster.inventory else Cluster(replace(cluster.workspace, minor=minor), inventory)


def faults(inventory: Inventory, runs: str) -> Iterator[str]:
    """Why there is no way from ``runs`` to the inventory's minor."""
    target = inventory.cluster.kubernetes
    yield from versions.step(target, runs)
    for minor in minors(target, runs):
        try:
            at(inventory, minor)
        except SmallkubeError as error:
            yield str(error)


def known(settings: ClusterSettings) -> Mapping[str, str]:
    """Package → version of what the table of revisions has for these settings; empty when it has nothing."""
    pin = releases.PINS.get(settings.kubernetes)
    if not pin or settings.kubernetes_input != pin.revision:
        return {}
    found = {"kubernetes": pin.kubernetes, "etcd": pin.etcd, "cri-o": pin.crio}
    return {name: version for name, version in found.items() if version}


def evaluated(cluster: Cluster) -> Mapping[str, str]:
    """Package → version in the operator's own configuration: by the table, else by Nix, where the revision is named.

    Empty where that can't be done here, such as without Nix or network, or before `inv nix.render`.
    """
    if (found := known(cluster.inventory.cluster)) or not cluster.inventory.cluster.kubernetes_nixpkgs:
        return found
    if render.plan(cluster).changed:
        return {}
    with suppress(SmallkubeError):
        return flake.versions(assemble(cluster).files, cluster.inventory.primary.name)
    return {}


def etcd_faults(runs: str, path: Sequence[tuple[str, Mapping[str, str]]], *, reversible: bool) -> Iterator[str]:
    """What etcd would not survive, of ``path``: minor and its packages' versions; ``runs``: the version of etcd.

    Of an unknown version the primary finds it out before anything is activated there; it is taken to be new enough.
    """
    before = runs
    for minor, packages in path:
        etcd = packages.get("etcd", "")
        if etcd and (problem := etcd_versions.refusal(EtcdFacts(before, "", etcd), reversible=reversible)):
            yield f"{minor}: {problem[0]}: {problem[1]}"
        before = etcd or (before and NEW_ENOUGH)


def raises_etcd(minor: str, runs: str, packages: Mapping[str, str]) -> bool | None:
    """Whether etcd's minor is another one than that of ``runs``; None when that is not known.

    No nixpkgs has it together with a minor of Kubernetes before 1.37; where one does, the primary refuses it.
    """
    etcd = packages.get("etcd", "")
    if etcd and runs:
        return etcd.split(".")[:2] != runs.split(".")[:2]
    return None if versions.minor(minor) >= FIRST_WITH_3_7 else False


def prepare(cluster: Cluster, minors: Sequence[str]) -> None:
    """Render and lock the operator's configuration, and that of each in-between one of ``minors``.

    Raises SmallkubeError when an input can't be locked, UsageError when nix/flake.lock is damaged.
    """
    render.plan(cluster).apply()
    whole = assemble(cluster)
    flake.require_sound_lock(whole.files)
    lock = locked(cluster, whole).files[flake.LOCK_FILE]
    common = lockfile.without_second(lock)
    for minor in minors:
        between = cluster_at(cluster, minor)
        if between is not cluster:
            render.plan(between).apply()
            file = between.workspace.flake_lock
            if _others(file) != common:
                write_file(file, common)
            locked(between, assemble(between))


def _others(file: Path) -> bytes | None:
    """What a lock file of a minor has besides the second nixpkgs; None when it is missing or damaged."""
    with suppress(SmallkubeError, FileNotFoundError):
        return lockfile.without_second(file.read_bytes())
    return None


def is_under_way(workspace: Workspace, runs: str) -> bool:
    """Whether an upgrade has made a configuration of the minor that ``runs``, and has not ended that."""
    return replace(workspace, minor=f"1.{versions.minor(runs)}").flake_file.is_file()


def end(workspace: Workspace, minor: str) -> None:
    """Remove the configurations of the minors up to this one."""
    for folder in [*workspace.between_dir.glob("1.*")]:
        if versions.minor(folder.name) <= versions.minor(minor):
            shutil.rmtree(folder)


def describe(inventory: Inventory, minor: str, packages: Mapping[str, str], runs_etcd: str) -> Iterator[str]:
    """Lines for a person: the versions of this minor, where they are from, and how it is rolled back."""
    settings = at(inventory, minor).cluster
    origin = f"nixpkgs {lockfile.short(settings.kubernetes_input)}" if settings.kubernetes_input else "the release"
    names = ", ".join(f"{PACKAGES[name]} {packages[name]}" for name in PACKAGES if name in packages)
    own = "" if settings is inventory.cluster else f", rendered in .smallkube/upgrade/{minor}"
    yield f"{minor}: NixOS {settings.nixos}, {names or f'Kubernetes {minor}'} from {origin}{own}"
    workers = " ".join(f"--node {node.name}" for node in inventory.workers)
    commands = [f"inv deploy.rollback {nodes}" for nodes in (workers, f"--node {inventory.primary.name}") if nodes]
    back = f"  rollback of {minor}: {', then '.join(commands)}"
    lower = f"etcdctl --endpoints {ENDPOINT} downgrade enable {'.'.join(runs_etcd.split('.')[:2]) or '3.6'}"
    raised = raises_etcd(minor, runs_etcd, packages)
    if raised:
        yield f"{back}, which etcd {packages['etcd']} makes impossible without `{lower}` on the primary before"
    elif raised is None:
        yield f"{back}; if it has etcd 3.7, impossible without `{lower}` on the primary before"
    else:
        yield back
