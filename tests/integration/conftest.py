"""Shared by the integration tests: a workspace with real SSH host keys on which the real commands are run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import standins
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory import cluster
from smallkube.inventory.load import load
from smallkube.inventory.models import Inventory
from tests import forked

Completed = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class PreparedWorkspace:
    """A workspace, and beside it the nodes' private host keys, as the nodes would have them."""

    workspace: Workspace
    private: Path

    @property
    def keys(self) -> Path:
        return self.workspace.keys_dir

    @property
    def inventory(self) -> Inventory:
        return load(self.workspace.inventory_file)

    @property
    def cluster(self) -> cluster.Cluster:
        return cluster.Cluster(self.workspace, self.inventory)

    def identity(self, node: str) -> Path:
        """The private host key of ``node``; the master identity for "master"."""
        return self.workspace.master_key if node == "master" else self.private / node

    def write_inventory(self, indices: Sequence[int], **cluster: Any) -> None:
        nodes = {f"node{index}": {"peer_ip": f"192.168.0.{index}"} for index in indices}
        newest = {"nixos": standins.OWN, "kubernetes": standins.RELEASES[standins.OWN]}
        document = {"cluster": {"name": "test", **newest, **cluster}, "nodes": nodes}
        self.workspace.inventory_file.write_text(yaml.safe_dump(document))

    def close_machines(self) -> None:
        """Let each node be a port of this machine that nothing listens at."""
        document = yaml.safe_load(self.workspace.inventory_file.read_text())
        for port, node in enumerate(document["nodes"].values(), 1):
            node["ssh"] = {"host": "127.0.0.1", "port": port}
        self.workspace.inventory_file.write_text(yaml.safe_dump(document))

    def new_host_key(self, node: str) -> None:
        """Give ``node`` a new host key and store its public half in the workspace."""
        path = self.private / node
        for old in (path, path.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", node, "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        self.workspace.hosts_keys_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.with_suffix(".pub"), self.workspace.hosts_keys_dir)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), *words]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "INVOKE_"))}
        return {**kept, "SMALLKUBE_WORKSPACE": str(self.workspace.root), **more}

    def inv(self, *words: str, **more: str) -> Completed:
        """Run one task in a process of its own."""
        return forked.inv(*words, environment=self.environment(**more))

    def fresh_inv(self, *words: str, **more: str) -> Completed:
        """The same in a Python that has loaded nothing yet."""
        argv, environment = self.command(*words), self.environment(**more)
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env=environment, cwd="/"
        )

    def done(self, *words: str, **more: str) -> str:
        """Run one task that must succeed; its standard output."""
        run = self.inv(*words, **more)
        assert run.returncode == 0, run.stderr + run.stdout
        return run.stdout

    def refused(self, *words: str, status: int = 2) -> str:
        """The one line with which a task refuses; nothing under keys/ has changed."""
        before = self.snapshot()
        run = self.inv(*words)
        assert run.returncode == status, run.stdout + run.stderr
        assert self.snapshot() == before
        lines = run.stderr.strip().splitlines()
        assert len(lines) == 1, run.stderr
        return lines[0]

    def problems(self) -> dict[str, tuple[str, str]]:
        """File → fault and fix, as `keys.check --json` reports them."""
        run = self.inv("keys.check", "--json")
        assert "Traceback" not in run.stderr
        rows = json.loads(run.stdout)["problems"]
        assert run.returncode == (1 if rows else 0), run.stderr
        return {row["file"]: (row["fault"], row["fix"]) for row in rows}

    def without_master(self) -> None:
        """Take the private master key away."""
        self.workspace.master_key.rename(self.private / "master_key")

    def snapshot(self) -> dict[str, tuple[bytes, int, int]]:
        """Every file under keys/: content, mode, time of change in nanoseconds."""
        files = [path for path in self.keys.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.keys)): (
                path.read_bytes(),
                path.stat().st_mode,
                path.stat().st_mtime_ns,
            )
            for path in files
        }

    def content(self) -> dict[str, bytes]:
        return {name: state[0] for name, state in self.snapshot().items()}


def _make(folder: Path, indices: Sequence[int], name: str, **cluster: Any) -> PreparedWorkspace:
    root = folder / name
    made = PreparedWorkspace(Workspace(root), folder / f"{name}-private")
    root.mkdir()
    made.private.mkdir()
    made.write_inventory(indices, **cluster)
    for index in indices:
        made.new_host_key(f"node{index}")
    return made


@pytest.fixture
def make_cluster(tmp_path: Path, needs: Callable[[str, object, str], None]) -> Callable[..., PreparedWorkspace]:
    """``make_cluster(indices, name=…, **cluster)``: a workspace with an inventory and the nodes' host keys."""
    needs("integration", shutil.which("ssh-keygen"), "ssh-keygen (openssh-client)")

    def make(indices: Sequence[int], name: str = "ws", **cluster: Any) -> PreparedWorkspace:
        return _make(tmp_path, indices, name, **cluster)

    return make


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace of two nodes (``ws``) with everything generated, and their private keys: a template."""
    folder = tmp_path_factory.mktemp("generated")
    made = _make(folder, (1, 2), "ws")
    made.done("keys.generate")
    return folder


@pytest.fixture
def copied(generated: Path, tmp_path: Path) -> Callable[[str], PreparedWorkspace]:
    """``copied(name)``: a copy of the template, in a folder of this name."""

    def copy(name: str) -> PreparedWorkspace:
        shutil.copytree(generated, tmp_path / name)
        return PreparedWorkspace(Workspace(tmp_path / name / "ws"), tmp_path / name / "ws-private")

    return copy


@pytest.fixture
def ready(copied: Callable[[str], PreparedWorkspace]) -> PreparedWorkspace:
    """Two nodes, everything generated; the test's own copy."""
    return copied("ready")
