"""How Nix' errors are told, where nixpkgs' lib is found, and how a tree is written."""

import json
import os
from pathlib import Path

import pytest

from lab.checks.evaluate import nixpkgs_lib
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.nix.bundle import write_tree
from smallkube.nix.flake import generated_texts, reason


def test_nix_errors_on_one_line() -> None:
    text = (
        "trace: something\nwarning: something\n\x1b[31;1merror:\x1b[0m undefined variable 'x'\n\n"
        "       at /a/b.nix:3:5:\n\n            2|   a = 1;\n            3|   b = x;\n             |       ^\n"
        "(use '--show-trace' to show detailed location information)\n"
    )
    assert reason(text) == "undefined variable 'x' at /a/b.nix:3:5:"
    assert reason("") == "Nix failed without saying why"


AT = "error: undefined variable 'x' at nix/hosts/node2.nix:3:5:"
EVALUATION = f"""\
building the system configuration...
warning: Git tree is dirty
error:
       … while calling the 'seq' builtin
         at «github:NixOS/nixpkgs»/lib/modules.nix:361:18:
          360|         options = checked options;

       error: undefined variable 'x'
       at /nix/store/{"a" * 32}-source/nix/hosts/node2.nix:3:5:
            2|   a = 1;
            3|   b = x;
             |       ^
"""
BUILDER = "error: builder for '/nix/store/x-unit.drv' failed with exit code 1;"
BUILD = f"""\
this derivation will be built:
{BUILDER}
       last 2 log lines:
       > building
       > shellcheck: x.sh:3 is wrong
       For full logs, run:
         nix log /nix/store/x-unit.drv
error: 1 dependencies of derivation '/nix/store/y-etc.drv' failed to build
error: 1 dependencies of derivation '/nix/store/z-nixos-system-node2.drv' failed to build
"""
CLASSIC = "Command 'nix --extra-experimental-features build' returned non-zero exit status 1.\n"


@pytest.mark.parametrize("after", ["", CLASSIC, f"Traceback (most recent call last):\n  x\nsubprocess.{CLASSIC}"])
@pytest.mark.parametrize(
    ("log", "said"),
    [
        (EVALUATION, AT.removeprefix("error: ")),
        (BUILD, f"{BUILDER} last 2 log lines: > building > shellcheck: x.sh:3 is wrong".removeprefix("error: ")),
    ],
)
def test_the_reason_of_a_failed_build_has_its_place(log: str, said: str, after: str) -> None:
    assert reason(log + after) == said


SCRIPT, BASH = "/nix/store/0-script.drv", "/nix/store/1-bash.drv"
FORMATS = {
    "before 2.32": {SCRIPT: {"env": {"text": "#!/bin/sh"}, "inputDrvs": {BASH: {}}}, BASH: {"env": {}}},
    "version 3": {"0-script.drv": {"env": {"text": "#!/bin/sh"}, "inputDrvs": {"1-bash.drv": {}}}},
    "version 4": {
        "derivations": {"0-script.drv": {"env": {"text": "#!/bin/sh"}, "inputs": {"drvs": {"1-bash.drv": {}}}}},
        "version": 4,
    },
}


@pytest.mark.parametrize("shown", FORMATS.values(), ids=FORMATS)
def test_generated_texts_are_found_in_each_format(shown: dict[str, object]) -> None:
    assert generated_texts(json.dumps(shown)) == {SCRIPT: ("#!/bin/sh", (BASH,))}


def test_where_nixpkgs_lib_is_looked_for(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert nixpkgs_lib(environ) is None
    lib = tmp_path / "smallkube" / "nixpkgs" / "lib"
    lib.mkdir(parents=True)
    (lib / "default.nix").touch()
    assert nixpkgs_lib(environ) == lib
    assert nixpkgs_lib({"SMALLKUBE_NIXPKGS": str(lib.parent)}) == lib
    with pytest.raises(UsageError, match="SMALLKUBE_NIXPKGS=/nowhere"):
        nixpkgs_lib({"SMALLKUBE_NIXPKGS": "/nowhere"})


def test_a_tree_is_private_and_stays_inside(tmp_path: Path) -> None:
    write_tree({"a/b": b"x"}, tmp_path / "tree")
    assert (tmp_path / "tree" / "a" / "b").read_bytes() == b"x"
    assert (tmp_path / "tree").stat().st_mode & 0o777 == 0o700 & ~_umask()
    with pytest.raises(SmallkubeError, match="tree: can't be written"):
        write_tree({"other": b"x"}, tmp_path / "tree")
    assert not (tmp_path / "tree" / "other").exists()
    with pytest.raises(SmallkubeError, match=r"\.\./out: leads out"):
        write_tree({"../out": b"x"}, tmp_path / "other")
    assert not (tmp_path / "out").exists()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
