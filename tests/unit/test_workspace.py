"""Proves that files are written whole or not at all, with their mode, and that locks exclude and name the holder."""

import errno
import fcntl
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from smallkube.core import git, log
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import lock, remove_temporaries, write_file, write_files
from smallkube.core.workspace import REPOSITORY, Workspace, expanded


def test_a_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert write_file(tmp_path / "new" / "open", "text", 0o644)
        assert write_file(tmp_path / "secret", b"\0", 0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "open").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_an_equal_file_is_kept_and_a_wrong_mode_fixed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_file(file, "same")
    before = file.stat()
    assert not write_file(file, "same")
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    file.chmod(0o600)
    assert write_file(file, "same", 0o644)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_file(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SmallkubeError, match="No space left"):
        write_file(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("mode", "written"), [(0o644, True), (0o600, False)])
def test_without_modes_only_what_is_public_is_written(
    mode: int, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT, where the mount decides on the mode of all files, and a change of it is refused."""
    chmod = os.fchmod

    def refuse(handle: int, _: int) -> None:
        chmod(handle, 0o755)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    if written:
        assert write_file(tmp_path / "file", "text", mode)
    else:
        with pytest.raises(SmallkubeError, match="Operation not permitted; check its owner, and that its file system"):
            write_file(tmp_path / "file", "secret", mode)
    assert len([*tmp_path.iterdir()]) == written


def test_folders_need_not_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems can't."""
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    assert write_file(tmp_path / "file", "text")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_lock_that_cannot_be_had_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = f"^{tmp_path}/lock: backups: can't be locked: {os.strerror(number)}"
    with pytest.raises(SmallkubeError, match=message), lock(tmp_path / "lock", "backups"):
        pytest.fail("not locked")


def test_leftovers_of_a_killed_write_are_recognised(tmp_path: Path) -> None:
    write_file(tmp_path / "kept", "x")
    (tmp_path / ".tmp-kept.abc").write_text("half")
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_second_holder_is_told_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    attempt = (
        f"from smallkube.core.files import lock\nfrom pathlib import Path\nwith lock(Path({str(path)!r}), 'x'): pass"
    )
    with lock(path, "backup"):
        second = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True)
    assert f"already being done by process {os.getpid()}" in second.stderr
    with lock(path, "backup"):
        pass


def test_the_workspace_is_the_repository_unless_named(tmp_path: Path) -> None:
    assert Workspace.find({}).root == REPOSITORY
    assert Workspace.find({"SMALLKUBE_WORKSPACE": str(tmp_path)}).root == tmp_path
    with pytest.raises(UsageError, match="no such folder"):
        Workspace.find({"SMALLKUBE_WORKSPACE": str(tmp_path / "missing")})


def test_modules_come_from_the_workspace_when_it_has_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.nix_sources("modules") == REPOSITORY / "nix" / "modules"
    (tmp_path / "nix" / "modules").mkdir(parents=True)
    assert workspace.nix_sources("modules") == tmp_path / "nix" / "modules"


@pytest.mark.parametrize("path", ["~no-such-user/backups", "~/backups"])
def test_home_that_does_not_exist_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UsageError, match=f"^{path}: no such home directory"):
        expanded(path)


def run_git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("first", ["lock", "log", "kubeconfig", "batch"])
def test_whatever_makes_the_state_folder_git_ignores_it(tmp_path: Path, first: str) -> None:
    state = Workspace(tmp_path).state_dir
    run_git(tmp_path, "init", "-q")
    if first == "lock":
        with lock(state / "locks" / "node1", "deploying"):
            pass
    elif first == "log":
        with log.recording(state / "log", shown=False):
            log.command("node1", "true", 1, "ok")
    elif first == "kubeconfig":
        write_file(state / "kubeconfig", "token", 0o600)
    else:
        write_files({state / "batch" / "x": b"x"})
    write_file(state / "ssh_key", "key", 0o600)
    run_git(tmp_path, "add", "-A")
    assert run_git(tmp_path, "ls-files") == ""
    assert state.stat().st_mode & 0o777 == 0o700


def test_no_folder_outside_of_the_workspace_is_ignored(tmp_path: Path) -> None:
    outer = tmp_path / ".smallkube" / "clusters" / "demo"
    outer.mkdir(parents=True)
    write_file(Workspace(outer).state_dir / "kubeconfig", "token", 0o600)
    assert not (tmp_path / ".smallkube" / ".gitignore").exists()


def test_what_git_has_or_would_take_is_reported(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for file in (workspace.master_key, workspace.state_dir / "ssh_key"):
        file.parent.mkdir()
        file.write_text("secret")
    assert git.exposed(workspace) == {}  # no work tree
    run_git(tmp_path, "init", "-q")
    found = git.exposed(workspace)
    assert {name: fault for name, (fault, _) in found.items()} == dict.fromkeys(
        ("keys/master_key", ".smallkube/kubeconfig"), "git does not ignore it"
    )
    run_git(tmp_path, "add", "-A")
    for _, fix in found.values():
        subprocess.run(["sh", "-c", fix], check=True, cwd=tmp_path)
    found = git.exposed(workspace)
    assert found.keys() == {"keys/master_key", ".smallkube/ssh_key"}
    for fault, fix in found.values():
        assert "tracked" in fault
        subprocess.run(["sh", "-c", fix], check=True, cwd=tmp_path)
    assert git.exposed(workspace) == {}
