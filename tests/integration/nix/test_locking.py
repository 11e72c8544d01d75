"""Verifies with real Nix what nix/flake.lock and those of the minors on the way pin, and what is fetched for it.

GitHub is a stand-in, and so is what it serves as nixpkgs and agenix; Nix, its fetcher and its lock files are real.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lab import standins
from smallkube.core import process
from smallkube.core.checks import failed
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.deploy import plan
from smallkube.deploy.facts import SCRIPTS
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.inventory.releases import PINS
from smallkube.nix import flake, lockfile, render
from smallkube.nix.bundle import Bundle, assemble, write_tree
from smallkube.nix.check import check
from smallkube.operations import upgrade_path

from .conftest import make_tree
from .github import WRITTEN, GitHub, serving

pytestmark = pytest.mark.integration

NIXPKGS = "NixOS/nixpkgs"
FIRST, MOVED, OLDER, UNSTABLE, NAMED, OTHER = (digit * 40 for digit in "1239ab")
BETWEEN = PINS["1.35"].revision
AGENIX = """
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  inputs.darwin = { url = "github:lnl7/nix-darwin/master"; inputs.nixpkgs.follows = "nixpkgs"; };
  inputs.home-manager = { url = "github:nix-community/home-manager"; inputs.nixpkgs.follows = "nixpkgs"; };
  inputs.systems.url = "github:nix-systems/default";
"""
"""The inputs of the real one (ryantm/agenix, flake.nix)."""
MORE = {"lnl7/nix-darwin/master": "d", "nix-community/home-manager/HEAD": "e", "nix-systems/default/HEAD": "f"}
"""Branch → the digit of its revision. Each has a nixpkgs of its own as an input: the real nix-systems/default has none,
but so the names of the lock file's nodes are not those of the inputs.
"""
FLAKE = '{ inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable"; outputs = _: { }; }'


@pytest.fixture
def github(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    with serving(tmp_path) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        served = {
            (FIRST, "nixos-26.05"): ("26.05", "1.36"),
            (OLDER, "nixos-25.11"): ("25.11", "1.34"),
            (BETWEEN, "x1"): ("26.05", "1.35"),
            (NAMED, "x2"): ("26.05", "1.37"),
            (OTHER, "x3"): ("26.05", "1.37"),
            (UNSTABLE, "nixos-unstable"): ("26.05", "1.37"),
        }
        for (revision, branch), (nixos, minor) in served.items():
            standins.write(tmp_path / revision, nixos, minor)
            found.add(NIXPKGS, revision, tmp_path / revision, branch)
        agenix = shutil.copytree(standins.SOURCE / "agenix", tmp_path / "agenix")
        text = (agenix / "flake.nix").read_text()
        own = '  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";\n'
        assert own in text
        (agenix / "flake.nix").write_text(text.replace(own, AGENIX))
        found.add("ryantm/agenix", "c" * 40, agenix)
        for name, digit in MORE.items():
            repository, _, branch = name.rpartition("/")
            (tmp_path / repository).mkdir(parents=True)
            (tmp_path / repository / "flake.nix").write_text(FLAKE)
            found.add(repository, digit * 40, tmp_path / repository, branch)
        yield found


@dataclass
class Place:
    """A workspace, rendered for its inventory."""

    root: Path

    @property
    def cluster(self) -> Cluster:
        workspace = Workspace(self.root)
        return Cluster(workspace, load(workspace.inventory_file))

    def set(self, **settings: str) -> None:
        file = self.cluster.workspace.inventory_file
        text = file.read_text()
        for name, value in settings.items():
            text = re.sub(rf"(?m)^  {name}: .*$", f"  {name}: '{value}'", text)
        file.write_text(text)
        render.plan(self.cluster).apply()

    def lock(self, minor: str = "") -> dict[str, Any]:
        """The nodes of the lock file of that minor."""
        found = json.loads(replace(self.cluster.workspace, minor=minor).flake_lock.read_text())
        assert found["version"] == 7 and found["root"] == "root"
        nodes: dict[str, Any] = found["nodes"]
        return nodes


@pytest.fixture
def place(github: GitHub, tmp_path: Path) -> Place:
    """1.37 of a named revision on 26.05, locked."""
    (tmp_path / "workspace").mkdir()
    made = Place(tmp_path / "workspace")
    settings = {"nixos": "26.05", "kubernetes": "1.37", "kubernetes_nixpkgs": NAMED}
    make_tree(made.root, (1, 2), "192.0.2.{}", settings)
    plan.locked(made.cluster, assemble(made.cluster))
    github.taken()
    return made


def copied(place: Place, minor: str, folder: Path) -> Path:
    """The flake and the lock file of that minor in a new ``folder``."""
    workspace = replace(place.cluster.workspace, minor=minor)
    folder.mkdir()
    for file in (workspace.flake_file, workspace.flake_lock):
        shutil.copy(file, folder)
    return folder


def accepts(folder: Path) -> bool:
    """Whether Nix takes the lock file as it is."""
    words = ("flake", "metadata", "--json", "--no-update-lock-file", f"path:{folder}")
    done = process.run([str(process.find("nix")), *flake.FEATURES, *words], environment=os.environ, timeout=60)
    assert done.ok or "requires lock file changes" in done.stderr, done.stderr
    return done.ok


def revision(nodes: dict[str, Any], name: str) -> str:
    found = nodes[nodes["root"]["inputs"][name]]["locked"]
    assert re.fullmatch("sha256-[A-Za-z0-9+/]{43}=", found["narHash"])
    assert found["lastModified"] == int(WRITTEN.timestamp())
    return str(found["rev"])


def without(nodes: dict[str, Any], *names: str) -> dict[str, Any]:
    """The nodes but these inputs of the root."""
    root = nodes["root"]["inputs"]
    gone = {root[name] for name in names if name in root}
    kept = {name: node for name, node in root.items() if name not in names}
    return {name: node for name, node in nodes.items() if name not in gone} | {"root": {"inputs": kept}}


def test_the_first_lock_pins_each_branch_and_revision(place: Place, tmp_path: Path) -> None:
    nodes = place.lock()
    assert {name: revision(nodes, name) for name in nodes["root"]["inputs"]} == {
        "agenix": "c" * 40,
        "kubernetes-nixpkgs": NAMED,
        "nixpkgs": FIRST,
    }
    assert nodes["agenix"]["inputs"]["nixpkgs"] == ["nixpkgs"]
    assert accepts(copied(place, "", tmp_path / "copy"))


def test_a_minor_on_the_way_pins_its_own_second_input(place: Place, github: GitHub, tmp_path: Path) -> None:
    """The rest is that of nix/flake.lock, though each branch has moved since; nothing else is fetched."""
    for branch in [*github.branches]:
        github.branches[branch] = MOVED
    own = place.cluster.workspace.flake_lock.read_bytes()
    upgrade_path.prepare(place.cluster, ["1.35", "1.36"])
    assert github.taken() == [f"{NIXPKGS}/{BETWEEN}"]
    assert place.cluster.workspace.flake_lock.read_bytes() == own
    with_second, none = place.lock("1.35"), place.lock("1.36")
    assert revision(with_second, "kubernetes-nixpkgs") == BETWEEN
    second = with_second[with_second["root"]["inputs"]["kubernetes-nixpkgs"]]
    assert second["original"] == {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": BETWEEN}
    rest = without(place.lock(), "kubernetes-nixpkgs")
    assert (without(with_second, "kubernetes-nixpkgs"), none) == (rest, rest)
    assert all(accepts(copied(place, minor, tmp_path / f"of-{minor}")) for minor in ("1.35", "1.36"))
    upgrade_path.prepare(place.cluster, ["1.35", "1.36"])
    assert github.taken() == []


@pytest.mark.parametrize(
    ("minor", "kubernetes", "second"), [("1.35", "1.35.4", BETWEEN), ("1.36", "1.36.3", ""), ("", "1.37.2", NAMED)]
)
def test_a_minor_on_the_way_evaluates_from_its_lock(
    minor: str, kubernetes: str, second: str, place: Place, github: GitHub
) -> None:
    upgrade_path.prepare(place.cluster, ["1.35", "1.36"])
    github.taken()
    cluster = upgrade_path.cluster_at(place.cluster, minor or "1.37")
    files = assemble(cluster).files
    assert flake.versions(files, "node2")["kubernetes"] == kubernetes
    checks = check(files, ["node1", "node2"], {})
    assert failed(checks) == ()
    found = {each.check: each for each in checks if not each.subject}
    assert f"nixpkgs github:{NIXPKGS}/{FIRST[:12]}" in found["inputs"].detail
    assert (f"kubernetes-nixpkgs github:{NIXPKGS}/{second[:12]}" in found["inputs"].detail) == bool(second)
    assert "lock" not in found
    assert github.taken() == []


def test_the_primary_pins_the_same_without_nix_here(
    place: Place, github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script, with its folder moved."""
    text = SCRIPTS.bundle.files["lock-flake.sh"].decode()
    assert "/var/lib/smallkube/bundles/" in text
    (tmp_path / "lock.sh").write_text(text.replace("/var/lib/smallkube/bundles", str(tmp_path / "bundles")))
    upgrade_path.prepare(place.cluster, ["1.35"])
    expected = place.lock("1.35")

    def lock(_: Cluster, unlocked: Bundle) -> bytes:
        write_tree(unlocked.files, tmp_path / "bundles" / unlocked.digest)
        return subprocess.run(["sh", tmp_path / "lock.sh", unlocked.digest], check=True, capture_output=True).stdout

    shutil.rmtree(place.cluster.workspace.between_dir)
    monkeypatch.setattr(plan, "_lock", lock)
    upgrade_path.prepare(place.cluster, ["1.35"])
    assert place.lock("1.35") == expected


CHANGES: Mapping[str, tuple[dict[str, str], dict[str, str], list[str]]] = {
    "another revision": (
        {"kubernetes_nixpkgs": OTHER},
        {"kubernetes-nixpkgs": OTHER},
        [f"{NIXPKGS}/{OTHER}"],
    ),
    "a branch for a revision": (
        {"kubernetes_nixpkgs": "nixos-unstable"},
        {"kubernetes-nixpkgs": UNSTABLE},
        [f"{NIXPKGS}/nixos-unstable"],
    ),
    "another release": (
        {"nixos": "25.11"},
        {"nixpkgs": OLDER},
        [f"{NIXPKGS}/{OLDER}", f"{NIXPKGS}/nixos-25.11"],
    ),
    "nothing": ({}, {}, []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_stale_is_what_nix_would_not_take(change: str, place: Place, github: GitHub, tmp_path: Path) -> None:
    """A deploy pins exactly that; the others stay, though their branches have moved."""
    settings, pinned, asked = CHANGES[change]
    before, served = place.lock(), dict(github.branches)
    place.set(**settings)
    workspace = place.cluster.workspace
    stale = lockfile.stale(workspace.flake_lock.read_bytes(), workspace.flake_file.read_bytes())
    assert list(stale) == list(pinned)
    was = copied(place, "", tmp_path / "was")
    github.branches = {name: served[name] if name in asked else MOVED for name in served}
    plan.locked(place.cluster, assemble(place.cluster))
    assert github.taken() == asked
    nodes = place.lock()
    assert {name: revision(nodes, name) for name in pinned} == pinned
    assert without(nodes, *pinned) == without(before, *pinned)
    assert (accepts(was), accepts(copied(place, "", tmp_path / "is"))) == (not stale, True)


def test_a_second_input_that_was_left_out_is_removed(place: Place, github: GitHub, tmp_path: Path) -> None:
    """Without a request."""
    file, before = place.cluster.workspace.inventory_file, place.lock()
    text = file.read_text().replace("kubernetes: '1.37'", "kubernetes: '1.36'")
    file.write_text(re.sub("(?m)^  kubernetes_nixpkgs: .*\n", "", text))
    place.set()
    was, github.branches = copied(place, "", tmp_path / "was"), {}
    files = plan.locked(place.cluster, assemble(place.cluster)).files
    assert place.lock() == without(before, "kubernetes-nixpkgs")
    assert flake.versions(files, "node1")["kubernetes"] == "1.36.3"
    assert github.taken() == []
    assert (accepts(was), accepts(copied(place, "", tmp_path / "is"))) == (False, True)


def test_without_network_nothing_is_written(place: Place, github: GitHub) -> None:
    place.set(kubernetes_nixpkgs=OTHER)
    before, github.folders = place.cluster.workspace.flake_lock.read_bytes(), {}
    with pytest.raises(SmallkubeError, match=r"^nix/flake\.lock: Nix could not pin the flake's inputs: unable to"):
        plan.locked(place.cluster, assemble(place.cluster))
    assert place.cluster.workspace.flake_lock.read_bytes() == before
