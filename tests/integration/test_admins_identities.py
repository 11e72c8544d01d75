"""Each kind of identity opens what is encrypted to its recipient: with real age, ssh-keygen and a plugin of age."""

import hashlib
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import zstandard

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.etcd import stream
from smallkube.inventory import admins
from smallkube.secrets import age
from smallkube.secrets.header import parse_header
from tests import age_plugin

HOST = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr"
SECRET = bytes(range(32))
TEXT = b"secret\n" * 20_000


@pytest.fixture
def plugin(tmp_path: Path, needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin of age in PATH."""
    needs("integration", shutil.which("age"), "age (age)")
    folder = tmp_path / "bin"
    folder.mkdir()
    age_plugin.install(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def ssh_key(tmp_path: Path, needs: Callable[..., None]) -> Callable[[str], Path]:
    """``ssh_key(passphrase)``: the path of a new private key; its public half is in NAME.pub."""
    needs("integration", shutil.which("ssh-keygen"), "ssh-keygen (openssh-client)")

    def make(passphrase: str = "", kind: str = "ed25519") -> Path:
        path = tmp_path / "id"
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "me@here", "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        return path

    return make


def public(path: Path) -> str:
    return admins.recipient(path.with_suffix(".pub").read_text().strip())


def age_decrypt(identity: Path, data: bytes) -> bytes:
    return subprocess.run(["age", "-d", "-i", str(identity)], input=data, capture_output=True, check=True).stdout


def test_a_plugin_encrypts_and_decrypts(plugin: None, tmp_path: Path) -> None:
    secret, other = SECRET, bytes(32)
    native, recipient = age.new_identity()
    data = age.encrypt(TEXT, [recipient, age_plugin.recipient(secret), HOST])
    header = parse_header(data, "x")
    assert (header.x25519_count, header.others, len(header.ssh_tags)) == (1, (age_plugin.NAME,), 1)
    for text in (native, age_plugin.identity_file(secret), native + age_plugin.identity_file(secret)):
        assert age.decrypt(data, age.parse_master(text, "m"), "x") == TEXT
    (tmp_path / "identity").write_text(age_plugin.identity_file(secret))
    assert age_decrypt(tmp_path / "identity", data) == TEXT
    with pytest.raises(age.NotForMaster, match="x: m can't open it"):
        age.decrypt(data, age.parse_master(age_plugin.identity_file(other), "m"), "x")
    with pytest.raises(SmallkubeError, match="age: can't be decrypted"):
        age.decrypt(data[:-5], age.parse_master(age_plugin.identity_file(secret), "m"), "x")


def test_a_stream_passes_the_plugin(plugin: None) -> None:
    secret, sink, plain = SECRET, BytesIO(), BytesIO()
    age.encrypt_stream(BytesIO(TEXT * 20), sink, [age_plugin.recipient(secret)])
    data, master = sink.getvalue(), age.parse_master(age_plugin.identity_file(secret), "m")
    age.decrypt_stream(BytesIO(data), plain, master, parse_header(data, "x"), "x")
    assert plain.getvalue() == TEXT * 20


def test_a_backup_passes_the_plugin(plugin: None, tmp_path: Path) -> None:
    data = bytes(512 * 2000)
    packed = zstandard.ZstdCompressor().compress(data + hashlib.sha256(data).digest())
    identities = [age.new_identity(), (age_plugin.identity_file(SECRET), age_plugin.recipient(SECRET))]
    stored = stream.encrypt(BytesIO(packed), tmp_path / "backup", [recipient for _, recipient in identities])
    assert stored.sha256 == stream.hash_file(tmp_path / "backup")
    for text, _ in identities:
        found = stream.verify_backup(tmp_path / "backup", age.parse_master(text, "m"))
        assert found.sha256 == hashlib.sha256(data).hexdigest()
    with pytest.raises(age.NotForMaster):
        stream.verify_backup(tmp_path / "backup", age.parse_master(age_plugin.identity_file(bytes(32)), "m"))
    whole = (tmp_path / "backup").read_bytes()
    (tmp_path / "backup").write_bytes(whole[:-30])
    with pytest.raises(SmallkubeError, match="age: can't be decrypted"):
        stream.verify_backup(tmp_path / "backup", age.parse_master(identities[1][0], "m"))


def test_what_is_not_installed_is_one_line(plugin: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipient = age_plugin.recipient(bytes(32))
    (tmp_path / "bin" / f"age-plugin-{age_plugin.NAME}").unlink()
    with pytest.raises(UsageError, match=r"^age-plugin-smallkubetest: not found in PATH; install this age plugin"):
        age.encrypt(TEXT, [recipient])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UsageError, match=r"^age: not found, and required for the age plugin smallkubetest; install"):
        age.encrypt(TEXT, [recipient])


def test_an_ssh_key_opens_what_age_encrypts(ssh_key: Callable[..., Path]) -> None:
    path = ssh_key()
    _, recipient = age.new_identity()
    master = age.parse_master(path.read_text(), "id")
    assert master.recipients == (public(path),)
    data = age.encrypt(TEXT, [recipient, public(path)])
    assert age.decrypt(data, master, "x") == TEXT == age_decrypt(path, data)
    argv = ["age", "-r", public(path), "-r", recipient]
    theirs = subprocess.run(argv, input=TEXT, capture_output=True, check=True).stdout
    assert age.decrypt(theirs, master, "x") == TEXT
    with pytest.raises(age.NotForMaster):
        age.decrypt(age.encrypt(TEXT, [recipient, HOST]), master, "x")
    with pytest.raises(SmallkubeError, match="x: damaged"):
        age.decrypt(data[:-1], master, "x")


def test_other_ssh_keys_are_refused(ssh_key: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="id: not an OpenSSH private key of the type ed25519"):
        age.parse_master(ssh_key(kind="ecdsa").read_text(), "id")


def on_terminal(argv: list[str], environment: dict[str, str], typed: bytes) -> tuple[int, bytes]:
    """Run ``argv`` on a terminal of its own and type a line when it asks; its exit status and what is shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir("/")
        os.execvpe(argv[0], argv, environment)
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
            if b"passphrase of" in data:
                os.write(terminal, typed + b"\n")
    except OSError:  # Linux: the terminal is closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_a_passphrase_is_asked_for_on_the_terminal(ready: Any, ssh_key: Callable[..., Path]) -> None:
    path = ssh_key("open sesame")
    ready.done("admins.add", "alice", "--recipient", public(path))
    environment = ready.environment(SMALLKUBE_IDENTITY=str(path))
    wanted = ready.done("keys.show", "kube_token_root").strip()
    argv = ready.command("keys.show", "kube_token_root")
    status, shown = on_terminal(argv, environment, b"open sesame")
    assert status == 0 and wanted.encode() in shown and b"sesame" not in shown
    status, shown = on_terminal(argv, environment, b"wrong")
    assert status == 2 and b"id: wrong passphrase, or a damaged key" in shown
    run = subprocess.run(
        argv, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
    )
    assert run.returncode == 2
    assert "id: the key has a passphrase, and there is no terminal to read it from" in run.stderr
