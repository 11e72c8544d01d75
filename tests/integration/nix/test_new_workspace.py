"""A workspace that `inv init` made evaluates by hand, once it is in git: nothing of the checkout is needed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import standins
from smallkube.core import process
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix import render
from smallkube.operations import initialize
from smallkube.secrets import policy

from .conftest import peer

NODE = "node1.config.system.build.toplevel.drvPath"


def test_a_new_workspace_evaluates_by_hand(
    store: str, needs: Callable[[str, object, str], None], tmp_path: Path
) -> None:
    nix = process.find("nix")
    needs("integration", nix, "nix (Debian: nix-bin)")
    workspace = initialize.create(tmp_path / "home", "home")
    cluster = Cluster(workspace, load(workspace.inventory_file))
    workspace.keys_dir.mkdir()
    for name in [*(row.file for row in policy.secrets_of(cluster.inventory)), *policy.public_files(cluster.inventory)]:
        (workspace.keys_dir / name).write_text(f"not evaluated: {name}\n")
    workspace.peers_file.write_text(json.dumps([peer(index, "192.168.0.{}") for index in (1, 2)]))
    render.plan(cluster).apply()
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=workspace.root, check=True)
    inputs = standins.inputs(cluster.inventory.cluster, tmp_path).items()
    overrides = [word for name, path in inputs for word in ("--override-input", name, f"path:{path}")]
    argv = [str(nix), "--extra-experimental-features", "nix-command flakes", "eval", "--no-write-lock-file", *overrides]
    done = process.run([*argv, "--raw", f"./nix#nixosConfigurations.{NODE}"], folder=workspace.root)
    assert done.ok, done.stderr
    assert done.stdout.startswith("/nix/store/") and done.stdout.endswith("-nixos-system-node1-26.05.drv"), done.stdout
