"""Proves that systems built by this machine's Nix reach machines that share no signing key with it, whole or not at
all, and run there as those built on the machines do.

What stands in for nixpkgs lies where only the lab's machines have it. So the operator's `inv` runs in a mount namespace
of its own, with that folder and an empty Nix store; nothing of both is left here afterwards.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import require
from tests.lab.operating import Operator

MOUNT = """
set -eu
mount -t tmpfs tmpfs /opt
mkdir /opt/smallkube-lab
mount --rbind "$1/opt/smallkube-lab" /opt/smallkube-lab
mount --bind "$2" /nix
shift 2
exec "$@"
"""
SETTINGS = "NIX_CONFIG=sandbox = false\nbuild-users-group =\nsubstituters =\n"
LOCAL = ("--build-on", "local")


@pytest.fixture
def builder(deployed: Operator, tmp_path: Path) -> Iterator[Operator]:
    """An operator with a Nix of his own, at the machines of ``deployed``."""
    require("nix", bool(shutil.which("nix") and shutil.which("nix-store")), "Nix is not installed here")
    require("nix", Path("/nix").is_dir(), "there is no folder /nix to mount a store at")
    (tmp_path / "store").mkdir()
    layer = deployed.lab.folder / "layer"
    within = ("unshare", "--mount", "sh", "-c", MOUNT, "sh", str(layer), str(tmp_path / "store"), "env", SETTINGS)
    yield replace(deployed, within=within)
    deployed.deploy()


def test_what_is_built_here_runs_on_both_machines(builder: Operator) -> None:
    with builder.marked("node1", "from afar"), builder.marked("node2", "from afar too"):
        done = builder.inv("deploy", "--json", *LOCAL)
    reports = builder.reports(done)
    assert {report["outcome"] for report in reports.values()} == {"deployed"}
    assert [builder.mark(node) for node in ("node1", "node2")] == ["from afar", "from afar too"]
    for node, report in reports.items():
        assert builder.runs(node) == builder.boots(node) == report["system"]
        assert builder.say(node, "readlink", "-f", "/var/lib/smallkube/build/result") == report["system"]
        builder.say(
            node, "nix-store", "--verify-path", *builder.say(node, "nix-store", "-qR", report["system"]).split()
        )
        copied = re.search(rf"{node}.*copy the closure: (\d+) of (\d+) paths, [0-9.]+ MB", done.stderr)
        assert copied, done.stderr
        assert 0 < int(copied[1]) <= int(copied[2])
        assert builder.leftovers(node) == ""
        assert not Path(report["system"]).exists()
    assert not Path("/opt/smallkube-lab").exists()


def test_a_machine_that_has_all_of_it_is_sent_nothing(builder: Operator) -> None:
    with builder.marked("node2", "already there"):
        builder.deploy("--goal", "build", "--node", "node2")
        done = builder.inv("deploy", "--json", "--node", "node2", *LOCAL)
    assert builder.reports(done)["node2"]["outcome"] == "deployed"
    assert re.search(r"copy the closure: 0 of \d+ paths, 0.0 MB", done.stderr), done.stderr


def test_a_build_that_fails_here_changes_nothing(builder: Operator) -> None:
    before = builder.runs("node2")
    with builder.extra("node2", 'environment.etc."broken".text = throw "not to be had";'):
        report = builder.deploy("--node", "node2", *LOCAL, status=1)["node2"]
    assert report["outcome"] == "failed"
    assert "the build failed" in report["reason"]
    assert "not to be had" in report["log"]
    assert (builder.runs("node2"), builder.leftovers("node2")) == (before, "")


def test_a_copy_that_breaks_off_leaves_nothing_half(builder: Operator, tmp_path: Path) -> None:
    before = builder.runs("node2")
    with builder.marked("node2", "broken off"):
        program = tmp_path / "nix-store"
        real = shutil.which("nix-store")
        program.write_text(
            f'#!/bin/sh\nif [ "$1" = --export ]; then {real} "$@" | head -c 20000; else exec {real} "$@"; fi\n'
        )
        program.chmod(0o755)
        path = f"PATH={tmp_path}:{os.environ['PATH']}"
        cut = replace(builder, within=(*builder.within, path))
        report = cut.deploy("--node", "node2", *LOCAL, status=1)["node2"]
        assert "the closure could not be copied" in report["reason"]
        assert (builder.runs("node2"), builder.leftovers("node2")) == (before, "")
        builder.say("node2", "nix-store", "--verify", "--check-contents")
        assert builder.outcomes("--node", "node2", *LOCAL) == {"node2": "deployed"}
    assert builder.mark("node2") == "broken off"
