"""Nodes' descriptions: what a machine's configuration comes to, evaluated by the stand-ins for nixpkgs and agenix.

The evaluator is ``lab/nix/evaluate.nix``. The store is Nix' ``dummy://``: nothing is written outside of memory.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.releases import RELEASES
from smallkube.nix.flake import reason

EVALUATOR = REPOSITORY / "lab" / "nix" / "evaluate.nix"
INPUTS = {"nixpkgs": f"path:{EVALUATOR.parent}", "agenix": f"path:{EVALUATOR.parent}/agenix"}
"""The stand-ins as inputs of the flake."""

Description = dict[str, Any]
"""One node's units, files, rules, users, secrets …; JSON values only. ``scripts`` and ``files`` are the generated
executables and other texts that it refers to: store path → text."""

_TEXT = "trace: smallkube-text "
_OFFLINE = {"NIX_REMOTE": "dummy://", "NIX_PATH": "", "NIX_CONFIG": "experimental-features ="}


def nixpkgs_lib(environ: Mapping[str, str]) -> Path | None:
    """nixpkgs' own ``lib``: of the tree that SMALLKUBE_NIXPKGS names, or of the user's cache folder; else None.

    Raises UsageError when the tree named there has no ``lib``.
    """
    named = environ.get("SMALLKUBE_NIXPKGS")
    if named and not (Path(named) / "lib" / "default.nix").is_file():
        raise UsageError("has no lib/default.nix", where=f"SMALLKUBE_NIXPKGS={named}", hint="name a nixpkgs tree")
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    lib = (Path(named) if named else cache / "smallkube" / "nixpkgs") / "lib"
    return lib if (lib / "default.nix").is_file() else None


def stood_in_for(tree: Path) -> tuple[str, str]:
    """The release of NixOS that ``tree`` names, and the minor of Kubernetes that its inputs give."""
    flake, cluster = ((tree / "nix" / name).read_text() for name in ("flake.nix", "rendered/cluster.nix"))
    release = re.search(r'^    nixpkgs\.url = "github:NixOS/nixpkgs/nixos-([0-9.]+)";$', flake, re.MULTILINE)
    minor = re.search(r'^    kubernetesMinor = "([0-9.]+)";$', cluster, re.MULTILINE)
    if release is None or minor is None:
        raise SmallkubeError("names no release of NixOS or minor of Kubernetes", where=str(tree))
    return release[1], minor[1] if "kubernetes-nixpkgs.url" in flake else RELEASES[release[1]]


def evaluate(
    nix_instantiate: str, tree: Path, nodes: Sequence[str], *, lib: Path | None = None, timeout: float = 300.0
) -> dict[str, Description]:
    """The descriptions of ``nodes``, in that order, from a ``tree`` with all that Nix sees (a materialised bundle).

    Raises SmallkubeError with the evaluation's own first error.
    """
    names = " ".join(json.dumps(name) for name in nodes)
    argv: list[str | Path] = [nix_instantiate, "--eval", "--strict", "--json", EVALUATOR]
    argv += ["--argstr", "tree", tree.resolve(), "--arg", "nodes", f"[ {names} ]"]
    nixos, minor = stood_in_for(tree)
    argv += ["--argstr", "nixos", nixos, "--argstr", "minor", minor]
    argv += ["--argstr", "lib", lib] if lib else []
    result = process.run(argv, environment=_OFFLINE, timeout=timeout)
    if result.stopped:
        raise SmallkubeError(f"evaluation took longer than {timeout:.0f} s", where=", ".join(nodes))
    if not result.ok:
        said = [line for line in result.stderr.splitlines() if not line.startswith(_TEXT)]
        raise SmallkubeError(reason("\n".join(said)), where=", ".join(nodes))
    evaluated = json.loads(result.stdout)
    descriptions: dict[str, Description] = {node: evaluated[node] | {"scripts": {}, "files": {}} for node in nodes}
    for line in result.stderr.splitlines():
        if line.startswith(_TEXT):
            text = json.loads(line.removeprefix(_TEXT))
            descriptions[text["node"]]["scripts" if text["executable"] else "files"][text["path"]] = text["text"]
    return descriptions
