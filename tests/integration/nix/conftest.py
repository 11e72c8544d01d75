"""Shared by the tests of the evaluated configuration: workspaces with throw-away keys, and their descriptions.

Nothing here is secret: an evaluation only looks at which files there are, so every .age file holds one word.
"""

import base64
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import standins
from lab.checks.evaluate import Description, evaluate
from smallkube.core import process
from smallkube.core.workspace import Workspace
from smallkube.inventory import load
from smallkube.inventory.cluster import Cluster
from smallkube.nix import render
from smallkube.nix.bundle import assemble, write_tree
from smallkube.secrets import policy

CLUSTERS = {"two": (1, 2), "three": (1, 2, 3), "twelve": tuple(range(1, 13)), "hole": (1, 3, 7)}


@dataclass(frozen=True)
class Tree:
    """What Nix sees of a workspace: relative path → content, and the names of the nodes."""

    files: Mapping[str, bytes]
    nodes: tuple[str, ...]

    def with_file(self, path: str, text: str) -> "Tree":
        return Tree({**self.files, path: text.encode()}, self.nodes)

    def replacing(self, path: str, old: str, new: str) -> "Tree":
        text = self.files[path].decode()
        assert old in text
        return self.with_file(path, text.replace(old, new))


def make_tree(folder: Path, indices: Sequence[int], addresses: str, cluster: Mapping[str, Any]) -> Tree:
    workspace = Workspace(folder)
    own, settings = cluster.get("nodes", {}), {key: value for key, value in cluster.items() if key != "nodes"}
    settings = {"nixos": standins.OWN, "kubernetes": standins.RELEASES[standins.OWN], **settings}
    nodes = {
        name: {"peer_ip": addresses.format(name[4:])} | own.get(name, {}) for name in map("node{}".format, indices)
    }
    workspace.inventory_file.write_text(yaml.safe_dump({"cluster": {"name": "test", **settings}, "nodes": nodes}))
    loaded = load.load(workspace.inventory_file)
    workspace.keys_dir.mkdir()
    for name in [*(secret.file for secret in policy.secrets_of(loaded)), *policy.public_files(loaded)]:
        (workspace.keys_dir / name).write_text(f"throw-away {name}\n")
    peers = [peer(index, addresses) if index in indices else None for index in range(1, max(indices) + 1)]
    workspace.peers_file.write_text(json.dumps(peers))
    render.plan(Cluster(workspace, loaded)).apply()
    return Tree(assemble(Cluster(workspace, loaded)).files, tuple(nodes))


def peer(index: int, addresses: str) -> dict[str, str]:
    return {"PublicKey": base64.b64encode(bytes([index]) * 32).decode(), "PeerIP": addresses.format(index)}


Build = Callable[..., Tree]
Describe = Callable[..., dict[str, Description]]


@pytest.fixture
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """``build(indices, addresses="192.0.2.{}", **cluster)``: the tree of a cluster with these nodes and settings.

    ``nodes``: name → further fields of the node.
    """

    def build(indices: Sequence[int], addresses: str = "192.0.2.{}", **cluster: Any) -> Tree:
        return make_tree(tmp_path_factory.mktemp("workspace"), indices, addresses, cluster)

    return build


@pytest.fixture
def nix(needs: Callable[[str, object, str], None]) -> str:
    program = process.find("nix-instantiate")
    needs("integration", program, "nix-instantiate (Debian: nix-bin)")
    assert program is not None
    return program


@pytest.fixture
def store(nix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """nix-instantiate; what Nix stores and caches goes to a folder of the test."""
    monkeypatch.setenv("NIX_REMOTE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield nix
    for folder in (tmp_path / "store").rglob("*"):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o700)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)


@pytest.fixture
def describe(nix: str, tmp_path_factory: pytest.TempPathFactory) -> Describe:
    """``describe(tree, lib=None)``: the descriptions of all its nodes."""

    def describe(tree: Tree, lib: Path | None = None) -> dict[str, Description]:
        folder = tmp_path_factory.mktemp("evaluation") / "tree"
        write_tree(tree.files, folder)
        return evaluate(nix, folder, tree.nodes, lib=lib)

    return describe


@cache
def _described(nix: str, cluster: str, folder: Path) -> dict[str, Description]:
    (folder / "workspace").mkdir()
    tree = make_tree(folder / "workspace", CLUSTERS[cluster], "192.0.2.{}", {})
    write_tree(tree.files, folder / "tree")
    return evaluate(nix, folder / "tree", tree.nodes)


@pytest.fixture(scope="session")
def _folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp(name) for name in CLUSTERS}


@pytest.fixture(params=CLUSTERS)
def cluster(request: pytest.FixtureRequest, nix: str, _folders: dict[str, Path]) -> dict[str, Description]:
    """The descriptions of a cluster of two, three and twelve nodes, and of one with holes in its indices."""
    name: str = request.param
    return _described(nix, name, _folders[name])


@pytest.fixture
def two(nix: str, _folders: dict[str, Path]) -> dict[str, Description]:
    """The descriptions of a primary and one worker."""
    return _described(nix, "two", _folders["two"])
