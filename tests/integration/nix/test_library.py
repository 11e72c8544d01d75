"""Proves that the own subset of nixpkgs' lib means what nixpkgs' lib means: every node's description is identical with
both, and so are the results of the functions, types and of the module system, errors included."""

import json
import os
from pathlib import Path

import pytest

from lab.checks.evaluate import EVALUATOR, nixpkgs_lib
from smallkube.core import process

from .conftest import CLUSTERS, Build, Describe

pytestmark = pytest.mark.integration

OWN = EVALUATOR.parent / "lib"


@pytest.fixture
def nixpkgs(needs: object) -> Path:
    lib = nixpkgs_lib(os.environ)
    assert callable(needs)
    needs("nixpkgs", lib, "nixpkgs' lib (SMALLKUBE_NIXPKGS, or a checkout in the cache folder)")
    assert lib is not None
    return lib


@pytest.mark.parametrize("indices", CLUSTERS.values(), ids=CLUSTERS)
def test_every_node_is_the_same_with_both(
    indices: tuple[int, ...], build: Build, describe: Describe, nixpkgs: Path
) -> None:
    tree = build(indices)
    assert describe(tree) == describe(tree, lib=nixpkgs)


@pytest.mark.parametrize(
    "settings",
    [
        {"api": {"tls": "insecure", "allow_from": ["0.0.0.0/0", "::/0"]}},
        {"kubelet_auth": "firewall", "network": {"open_to_pods": [53], "private": ["192.0.2.0/24"]}},
    ],
    ids=["insecure", "firewall"],
)
def test_other_settings_are_the_same_with_both(
    settings: dict[str, object], build: Build, describe: Describe, nixpkgs: Path
) -> None:
    tree = build((1, 2), **settings)
    assert describe(tree) == describe(tree, lib=nixpkgs)


CASES = Path(__file__).with_name("cases.nix")


def value(nix: str, lib: Path, attribute: str) -> process.Result:
    argv: list[str | Path] = [
        nix,
        "--eval",
        "--strict",
        "--json",
        CASES,
        "--arg",
        "lib",
        f"import {lib}",
        "-A",
        attribute,
    ]
    return process.run(argv, environment={"NIX_REMOTE": "dummy://"})


def test_functions_types_and_the_module_system_mean_the_same(nix: str, nixpkgs: Path) -> None:
    own, theirs = value(nix, OWN, "same"), value(nix, nixpkgs, "same")
    assert (own.ok, theirs.ok) == (True, True), own.stderr + theirs.stderr
    assert json.loads(own.stdout) == json.loads(theirs.stdout)


WRONG = {
    "type": ["`v'", "is not of type", "signed integer", "<unknown-file>"],
    "conflict": ["`v'", "conflicting definition values", "mkForce"],
    "missing": ["`v'", "no value defined"],
    "unknown": ["`w'", "does not exist", "<unknown-file>"],
    "unknownUnderFalse": ["`w'", "does not exist"],
    "enum": ["`v'", "is not of type", '"c"'],
    "unknownInSubmodule": ["`v.x.b'", "does not exist"],
    "missingInSubmodule": ["`v.x.a'", "no value defined"],
    "entry": ['`v."[definition 1-entry 2]"\'', "is not of type"],
    "halfNull": ["`v'", "both null and not null"],
    "readOnly": ["`v'", "is read-only"],
    "declaredTwice": ["`v'", "already declared"],
    "mixed": ["unsupported attribute", "v"],
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_explained_by_both(case: str, nix: str, nixpkgs: Path) -> None:
    assert not value(nix, nixpkgs, f"wrong.{case}").ok
    own = value(nix, OWN, f"wrong.{case}")
    assert not own.ok
    assert [word for word in WRONG[case] if word not in own.stderr] == []
