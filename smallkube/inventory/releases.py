"""Releases of NixOS and minors of Kubernetes: which belong together, and where nixpkgs has the others.

A release carries one minor (pkgs/by-name/ku/kubernetes). Another one comes from a second revision of nixpkgs, with what
must match it: CRI-O, crictl and etcd. `inv nix.render` writes that as the input ``kubernetes-nixpkgs`` of the flake.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

RELEASES: Mapping[str, str] = {"25.11": "1.34", "26.05": "1.36"}
"""Release of NixOS → minor of Kubernetes that its own nixpkgs has.

25.11: nixpkgs b0d1b43 has 1.34.1. 26.05: nixpkgs-unstable had 1.36.1 on 2026-05-20, ten days before the release
(saschagrunert/kubernix#1278). Whatever it is, the modules refuse a package of another minor (nix/modules/base.nix).
"""
MINORS = ("1.34", "1.35", "1.36", "1.37")
"""The minors of Kubernetes that nix/modules/releases.nix knows."""

END_OF_SUPPORT: Mapping[str, date] = {
    "25.11": date(2026, 6, 30),
    "26.05": date(2026, 12, 31),
    "1.34": date(2026, 10, 27),
    "1.35": date(2027, 2, 28),
    "1.36": date(2027, 6, 28),
    "1.37": date(2027, 10, 28),
}
"""Release of NixOS or minor of Kubernetes → the last day with security updates; without an entry, it is not known.

Kubernetes: "End Of Life Date" of kubernetes.io/releases/1.34 to 1.37. NixOS: endoflife.date/nixos.
"""


@dataclass(frozen=True)
class Pin:
    """A branch or revision of github.com/NixOS/nixpkgs, the versions in it ("" where unknown), and who says so."""

    revision: str
    kubernetes: str
    crio: str = ""
    etcd: str = ""
    source: str = ""


PINS: Mapping[str, Pin] = {
    "1.34": Pin("nixos-25.11", "1.34", source="the release that has it; it gets no more security updates"),
    "1.35": Pin(
        "8110df5ad7abf5d4c0f6fb0f8f978390e77f9685",
        "1.35.3",
        crio="1.35.0",
        etcd="3.6.9",
        source="nixpkgs-unstable of 2026-03-28: flake.lock and README.md of saschagrunert/kubernix@04fd338",
    ),
    "1.36": Pin(
        "044bfe75bfe4c7bbe043dc17b5e42ea823b84a09",
        "1.36.3",
        crio="1.36.3",
        etcd="3.6.14",
        source="nixpkgs-unstable of 2026-08-12: flake.lock and README.md of saschagrunert/kubernix@a149c07",
    ),
}
"""Minor → where nixpkgs has it, for releases that have another one. No revision with 1.37 could be verified."""


def pin(nixos: str, kubernetes: str, named: str | None) -> str | None:
    """Branch or revision of nixpkgs that gives Kubernetes, None where it is that of the release; ``named``: the user's.

    Raises ValueError when the release has another minor, and no revision is known or named.
    """
    if named or RELEASES.get(nixos) == kubernetes:
        return named
    if kubernetes not in PINS:
        raise ValueError(
            f"NixOS {nixos} has Kubernetes {RELEASES.get(nixos)}, and no revision of nixpkgs with {kubernetes} is known"
            " here; name one in cluster.kubernetes_nixpkgs"
        )
    return PINS[kubernetes].revision


def _supported(value: str, known: Collection[str], what: str) -> str:
    if value not in known:
        raise ValueError(f"{value} is no {what} that smallkube supports; it supports {', '.join(known)}")
    return value


Release = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{2}\.(05|11)$"),
    AfterValidator(lambda value: _supported(value, RELEASES, "release of NixOS")),
]
Minor = Annotated[
    str,
    StringConstraints(pattern=r"^1\.[0-9]{2}$"),
    AfterValidator(lambda value: _supported(value, MINORS, "minor of Kubernetes")),
]
Nixpkgs = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|(nixos|nixpkgs|release)-[0-9a-z.-]{1,40})$")]
"""A revision of github.com/NixOS/nixpkgs, or one of its branches."""
