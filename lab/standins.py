"""What stands in for the inputs of a rendered flake: copies of lab/nix, each for a release of NixOS and a minor of
Kubernetes."""

import shutil
from pathlib import Path

from smallkube.inventory.models import ClusterSettings
from smallkube.inventory.releases import MINORS, RELEASES

__all__ = ["MINORS", "OWN", "RELEASES", "SOURCE", "inputs", "write"]

SOURCE = Path(__file__).with_name("nix")
RELEASE = "release.nix"
OWN = "26.05"
"""What ``SOURCE`` itself stands in for."""


def write(folder: Path, nixos: str, kubernetes: str, source: Path = SOURCE) -> None:
    """Make ``folder`` a stand-in for nixpkgs of this release with this minor."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".*", "agenix"))
    (folder / RELEASE).write_text(f'{{ nixos = "{nixos}"; kubernetes = "{kubernetes}"; }}\n')


def inputs(cluster: ClusterSettings, folder: Path) -> dict[str, Path]:
    """Input of the flake → its stand-in, made below ``folder`` where lab/nix does not do."""
    nixos, other = cluster.nixos, cluster.kubernetes_input
    found = {"nixpkgs": SOURCE, "agenix": SOURCE / "agenix"}
    if nixos != OWN:
        found["nixpkgs"] = folder / "nixpkgs"
        write(found["nixpkgs"], nixos, RELEASES[nixos])
    if other:
        found["kubernetes-nixpkgs"] = folder / "kubernetes-nixpkgs"
        write(found["kubernetes-nixpkgs"], nixos, cluster.kubernetes)
    return found
