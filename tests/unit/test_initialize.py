"""A new workspace is complete, valid and of the newest pair; nothing that is there is overwritten."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smallkube.core import files
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import REPOSITORY, Workspace
from smallkube.inventory import releases
from smallkube.inventory.load import load
from smallkube.operations import initialize


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inv(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "invoke", "--search-root", str(REPOSITORY), "init", *words]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_new_workspace_has_all_that_nix_evaluates(tmp_path: Path) -> None:
    workspace = initialize.create(tmp_path / "some" / "home", "home")
    cluster = load(workspace.inventory_file).cluster
    newest = max(releases.RELEASES)
    assert (cluster.name, cluster.nixos, cluster.kubernetes) == ("home", newest, releases.RELEASES[newest])
    for name in initialize.COPIES:
        assert workspace.nix_sources(name) == workspace.root / "nix" / name
        assert tree(workspace.root / "nix" / name) == tree(REPOSITORY / "nix" / name)


def test_editors_find_the_schema_of_the_inventory(tmp_path: Path) -> None:
    workspace = initialize.create(tmp_path / "home", "home")
    first = workspace.inventory_file.read_text().splitlines()[0]
    schema = json.loads((workspace.root / first.partition("$schema=")[2]).read_text())
    assert schema["title"] == "smallkube inventory"


def test_git_takes_all_but_the_master_key(tmp_path: Path) -> None:
    root = initialize.create(tmp_path / "home", "home").root
    (root / "keys").mkdir()
    for name in ("keys/master_key", "keys/peers.json", "nix/flake.lock"):
        (root / name).write_text("x")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    argv = ["git", "ls-files", "--others", "--exclude-standard"]
    shown = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(shown) == sorted(
        {*tree(root)} - {name for name in tree(root) if name.startswith(".git/")} - {"keys/master_key"}
    )


def test_inv_works_on_the_workspace_it_is_typed_in(tmp_path: Path) -> None:
    workspace = initialize.create(tmp_path / "home", "home")
    environment = {name: value for name, value in os.environ.items() if name != "SMALLKUBE_WORKSPACE"}
    for folder in (workspace.root, workspace.nix_dir):
        argv = [sys.executable, "-m", "invoke", "keys.new-host", "node9", "--out", "out"]
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert "node9" in done.stderr and "node1" in done.stderr, done.stderr


@pytest.mark.parametrize("taken", ["notes.txt", ".hidden", "inventory.yaml"])
def test_a_folder_with_files_is_refused(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")
    done = inv(str(tmp_path), "--name", "home")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{tmp_path}: is not empty; name a new folder; --update renews what a workspace has of smallkube"
    ]
    assert tree(tmp_path) == {taken: b"mine"}


@pytest.mark.parametrize("name", ["", "My Home", 'x"\nnodes: {}', "-x", "a" * 64])
def test_a_name_that_is_none_changes_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(SmallkubeError) as raised:
        initialize.create(tmp_path / "home", name)
    assert raised.value.exit_status == 2 and "cluster.name" in str(raised.value)
    assert not (tmp_path / "home").exists()


def test_a_file_can_be_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="can't be a workspace: Not a directory"):
        initialize.create(tmp_path / "file", "home")


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_nothing(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    if there:
        home.mkdir()
    whole, left = files.sync, iter(range(5))

    def full(path: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path)

    with monkeypatch.context() as patched:
        patched.setattr(files, "sync", full)
        with pytest.raises(SmallkubeError, match="No space left"):
            initialize.create(home, "home")
    assert [*tmp_path.rglob("*")] == [home] * there
    assert initialize.create(home, "home").inventory_file.is_file()


def test_a_folder_with_git_alone_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "home" / ".git").mkdir(parents=True)
    done = inv(str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (0, "")
    assert load(tmp_path / "home" / "inventory.yaml").cluster.name == "home"


def test_update_renews_what_is_of_smallkube_alone(tmp_path: Path) -> None:
    workspace = initialize.create(tmp_path / "home", "home")
    made = tree(workspace.root)
    own = workspace.root / "nix/hosts/node1.nix"
    own.parent.mkdir()
    own.write_text("{ }")
    (workspace.root / "nix/modules/gone.nix").write_text("{ }")
    (workspace.root / "nix/modules/default.nix").unlink()
    (workspace.root / initialize.SCHEMA).unlink()
    assert "pass --yes" in inv(str(workspace.root), "--update").stderr
    assert inv(str(workspace.root), "--update", "--yes").returncode == 0
    assert tree(workspace.root) == {**made, "nix/hosts/node1.nix": b"{ }"}


def test_update_needs_a_workspace_that_is_not_the_checkout(tmp_path: Path) -> None:
    assert "no workspace: it has no inventory.yaml" in inv(str(tmp_path), "--update", "--yes").stderr
    with pytest.raises(UsageError, match="checkout of smallkube"):
        initialize.update(Workspace(REPOSITORY))


def test_an_update_keeps_the_key_in_the_installer(tmp_path: Path) -> None:
    workspace = initialize.create(tmp_path / "home", "home")
    file = workspace.nix_dir / "installer/flake.nix"
    assert file.read_text() == (REPOSITORY / "nix/installer/flake.nix").read_text()
    file.write_text("mine")
    (workspace.nix_dir / "examples/cloud.nix").write_text("old")
    initialize.update(workspace)
    assert file.read_text() == "mine"
    assert "disko" in (workspace.nix_dir / "examples/cloud.nix").read_text()
