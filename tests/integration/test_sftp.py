"""Off-site copies on real SFTP servers that lack what others have."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import Workspace
from smallkube.remote.sftp import Destination, Folder, folder
from tests.integration.sshd import Server

LACKING = ["lstat", "fsetstat,setstat", "posix-rename", "posix-rename,fsetstat,setstat,limits,hardlink,fsync"]


@contextmanager
def destination(tmp_path: Path, lacking: str) -> Iterator[Folder]:
    with Server(tmp_path / "sshd", sftp=f"internal-sftp -P {lacking}").running() as sshd:
        workspace = Workspace(tmp_path / "ws")
        workspace.keys_dir.mkdir(parents=True)
        workspace.state_dir.mkdir()
        (workspace.keys_dir / "known_hosts").write_text(
            f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'host.pub').read_text()}"
        )
        (workspace.state_dir / "ssh_key").write_bytes((sshd.folder / "user").read_bytes())
        (workspace.state_dir / "ssh_key").chmod(0o600)
        with folder(workspace, Destination("root", "127.0.0.1", sshd.port, f"{tmp_path}/far/away")) as there:
            yield there


@pytest.mark.parametrize("lacking", LACKING)
def test_a_server_without_extensions_will_do(lacking: str, tmp_path: Path) -> None:
    data, far = os.urandom(5 << 20), tmp_path / "far/away"
    (tmp_path / "source").write_bytes(data)
    with destination(tmp_path, lacking) as there:
        assert there.write("b1.age", tmp_path / "source", ".me") == hashlib.sha256(data).hexdigest()
        (far / os.fsdecode(b"gr\xfcn")).write_bytes(b"of another program")
        assert there.sizes() == {"b1.age": len(data), os.fsdecode(b"gr\xfcn"): 18}
        assert there.read("b1.age", 100_000) == data[:100_000]
        assert (far / "b1.age").read_bytes() == data
        there.remove("b1.age")
    assert [os.fsencode(path.name) for path in far.iterdir()] == [b"gr\xfcn"]


@pytest.mark.parametrize("lacking", LACKING)
def test_a_file_is_replaced_at_once_or_named(lacking: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "far/away/b1.age").write_bytes(b"damaged")
    found = b"new"
    try:
        with destination(tmp_path, lacking) as there:
            there.write("b1.age", tmp_path / "source", ".me")
    except SmallkubeError as error:
        assert "posix-rename" in lacking
        assert str(error).endswith("b1.age is there, and can't be replaced by SFTP: remove it")
        found = b"damaged"
    assert {path.name: path.read_bytes() for path in (tmp_path / "far/away").iterdir()} == {"b1.age": found}
