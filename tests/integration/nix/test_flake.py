"""Proves that the rendered flake itself evaluates with the lab's stand-ins for nixpkgs and agenix, to the same
description as the evaluator gives and to a derivation that depends on all that the description names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.checks.evaluate import EVALUATOR
from smallkube.core import process
from smallkube.nix.bundle import write_tree

from .conftest import Build, Describe, Tree

pytestmark = pytest.mark.integration

LAB = EVALUATOR.parent
Flake = Callable[[Tree, str], process.Result]


@pytest.fixture
def flake(needs: Callable[[str, object, str], None], tmp_path: Path) -> Flake:
    """``flake(tree, attribute)``: evaluates it in the flake of the tree, in a store of its own, to JSON."""
    nix = process.find("nix")
    needs("integration", nix, "nix (Debian: nix-bin)")

    def evaluate(tree: Tree, attribute: str) -> process.Result:
        # Old versions of Nix know no ?dir= for path flakes, so a flake around the rendered one passes the inputs on.
        around = (
            f'{{ inputs.nixpkgs.url = "path:{LAB}"; inputs.agenix.url = "path:{LAB}/agenix"; '
            'inputs.agenix.inputs.nixpkgs.follows = "nixpkgs"; '
            "outputs = inputs: (import ./nix/flake.nix).outputs inputs; }"
        )
        write_tree({**tree.files, "flake.nix": around.encode()}, tmp_path / "tree")
        argv = [str(nix), "--extra-experimental-features", "nix-command flakes", "--store", str(tmp_path / "store")]
        argv += ["eval", "--no-write-lock-file", "--json", f"path:{tmp_path}/tree#nixosConfigurations.{attribute}"]
        return process.run(argv, environment={"HOME": str(tmp_path)})

    return evaluate


def described(result: process.Result) -> dict[str, Any]:
    assert result.ok, result.stderr
    description: dict[str, Any] = json.loads(result.stdout)
    return description


def test_the_rendered_flake_gives_the_same_description(build: Build, describe: Describe, flake: Flake) -> None:
    tree = build((1, 2))
    expected = describe(tree)["node2"]
    for key in ("files", "scripts"):
        del expected[key]
    assert described(flake(tree, "node2.config.system.build.description")) == expected


def test_the_toplevel_is_one_derivation(build: Build, flake: Flake) -> None:
    result = flake(build((1, 2)), "node1.config.system.build.toplevel")
    assert result.ok, result.stderr
    assert re.fullmatch(r'"/nix/store/[a-z0-9]{32}-nixos-system-node1-26\.05"', result.stdout.strip())


def test_a_failed_assertion_stops_the_build(build: Build, flake: Flake) -> None:
    host = '{ assertions = [ { assertion = false; message = "it does not fit"; } ]; }'
    result = flake(build((1, 2)).with_file("nix/hosts/node2.nix", host), "node2.config.system.build.toplevel")
    assert not result.ok
    assert "Failed assertions:" in result.stderr
    assert "- it does not fit" in result.stderr
