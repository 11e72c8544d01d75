"""What goes wrong in keys/ is found, said in one line or one row, and fixed by the command that is named there.

Wrong master, damaged and swapped files, contradictions, full disk, leaks into git.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smallkube.secrets import age

Make = Callable[..., Any]


def test_wrong_master(ready: Any) -> None:
    text, _ = age.new_identity()
    ready.workspace.master_key.write_text(text)
    for task in (("keys.generate",), ("keys.check",), ("keys.rekey",), ("keys.show", "issuer.key")):
        assert "keys/master_key: " in ready.refused(*task)


@pytest.mark.parametrize("master_here", [True, False])
def test_damaged_files(ready: Any, master_here: bool) -> None:
    token, wireguard, issuer = (ready.keys / f"{name}.age" for name in ("kube_token_root", "wgkube1.key", "issuer.key"))
    token.write_bytes(token.read_bytes()[:100])
    wireguard.write_bytes(b"")
    flipped = bytearray(issuer.read_bytes())
    flipped[-1] ^= 1
    issuer.write_bytes(flipped)
    if not master_here:
        ready.without_master()
    found = ready.problems()
    assert found["kube_token_root.age"] == ("damaged age file: cut off inside the header", CHECKOUT + token.name)
    assert found["wgkube1.key.age"] == ("damaged age file: empty", CHECKOUT + wireguard.name)
    assert ("issuer.key.age" in found) is master_here  # only decrypting authenticates


CHECKOUT = "git checkout -- keys/"


def test_rekey_reports_what_it_cannot_open_and_fixes_the_rest(ready: Any) -> None:
    ready.new_host_key("node2")
    damaged = ready.keys / "node_node2.key.age"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    before = damaged.read_bytes()
    run = ready.inv("keys.rekey")
    assert run.returncode == 1 and "node_node2.key.age is kept as it is" in run.stderr
    assert damaged.read_bytes() == before
    assert set(ready.problems()) == {"node_node2.key.age"}


def test_swapped_files(ready: Any) -> None:
    first, second = ready.keys / "wgkube1.key.age", ready.keys / "kubelet_node2.key.age"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert {"wgkube1.key.age", "kubelet_node2.key.age"} <= set(ready.problems())
    ready.without_master()
    assert {"wgkube1.key.age", "kubelet_node2.key.age"} <= set(ready.problems())


def test_two_swapped_secrets_are_found_with_the_master(ready: Any) -> None:
    first, second = ready.keys / "apiserver.key.age", ready.keys / "kubelet-client.key.age"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert ready.problems()["apiserver.crt"][0] == "is not over the key in apiserver.key.age"


def test_an_emptied_secret_is_seen_without_any_key(ready: Any) -> None:
    recipients = ready.keys.joinpath("master_key.pub").read_text(), (ready.private / "node1.pub").read_text()
    path = ready.keys / "kube_token_root.age"
    path.write_bytes(age.encrypt(b"", [text.strip() for text in recipients]))
    ready.without_master()
    assert ready.problems()["kube_token_root.age"][0] == "it holds nothing"


def test_contradicting_files_are_refused_and_all_named(ready: Any) -> None:
    (ready.keys / "apiserver.key.age").unlink()
    (ready.keys / "wgkube2.key.age").unlink()
    before = ready.snapshot()
    run = ready.inv("keys.generate")
    assert run.returncode == 2
    assert "keys/apiserver.key.age: missing, but there is apiserver.crt" in run.stderr
    assert "keys/wgkube2.key.age: missing, but peers.json has its public key" in run.stderr
    assert ready.snapshot() == before


def test_peers_json_with_another_key_or_address(ready: Any) -> None:
    peers = json.loads(ready.workspace.peers_file.read_text())
    peers[1]["PublicKey"], peers[0]["PeerIP"], peers[0]["Region"] = peers[0]["PublicKey"], "10.0.0.1", "eu"
    ready.workspace.peers_file.write_text(json.dumps(peers))
    run = ready.inv("keys.check")
    assert "the PublicKey of node2 is not that of its private key" in run.stdout
    assert "PeerIP of node1 was 10.0.0.1" in run.stdout
    assert "PeerIP of node1 was 10.0.0.1" in ready.done("keys.generate")
    assert json.loads(ready.workspace.peers_file.read_text())[0]["Region"] == "eu"


def test_cloned_machines_are_refused(ready: Any) -> None:
    hosts = ready.workspace.hosts_keys_dir
    shutil.copy(hosts / "node1.pub", hosts / "node2.pub")
    assert "node1 and node2 have the same host key" in ready.refused("keys.generate")


@pytest.mark.parametrize("name", ["recipients.json", "peers.json", "hosts/node1.pub", "master_key.pub", "master_key"])
def test_files_of_garbage_give_one_line(ready: Any, name: str) -> None:
    (ready.keys / name).write_bytes(b"\xff\x00garbage\n\n[")
    assert f"keys/{name}" in ready.refused("keys.generate")


def test_modes_and_private_keys_in_clear(ready: Any) -> None:
    ready.workspace.master_key.chmod(0o644)
    (ready.keys / "secrets.nix").chmod(0o666)
    shutil.copy(ready.identity("node1"), ready.keys / "node1-backup")
    found = ready.problems()
    assert found["master_key"] == ("mode 0644 instead of 0600", "chmod 600 keys/master_key")
    assert "anyone" in found["secrets.nix"][0]
    assert "in clear" in found["node1-backup"][0]


def test_git_must_ignore_the_master_key(ready: Any, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("git"), "git")
    root = ready.workspace.root

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    assert ready.problems() == {}
    git("add", "-A")
    assert "keys/master_key\n" not in git("ls-files")
    (ready.keys / ".gitignore").write_text("")
    assert ready.problems()["master_key"] == ("git does not ignore it", "echo /master_key >> keys/.gitignore")
    git("add", "-f", "keys/master_key")
    assert "tracked" in ready.problems()["master_key"][0]


@contextmanager
def small_disk(cluster: Any, kilobytes: int, needs: Callable[[str, object, str], None]) -> Iterator[None]:
    """keys/ on a tmpfs of this size, holding what it held."""
    needs("integration", os.geteuid() == 0, "root, to mount a small tmpfs")
    content = cluster.content()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0755", "tmpfs", str(cluster.keys)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    needs("integration", mounted.returncode == 0, f"mount: {mounted.stderr.strip()}")
    try:
        for name, data in content.items():
            path = cluster.keys / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        yield
    finally:
        subprocess.run(["umount", str(cluster.keys)], check=True)


def resize(cluster: Any, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(cluster.keys)], check=True)


def full(run: "subprocess.CompletedProcess[str]") -> bool:
    lines = run.stderr.strip().splitlines()
    return run.returncode == 1 and len(lines) == 1 and "No space left on device" in lines[0]


@pytest.mark.parametrize("kilobytes", [20, 28, 48, 96, 128, 140])
def test_a_full_disk_stops_generation_cleanly(
    kilobytes: int, make_cluster: Make, needs: Callable[[str, object, str], None]
) -> None:
    cluster = make_cluster((1, 2, 3, 4))
    with small_disk(cluster, kilobytes, needs):
        assert full(cluster.inv("keys.generate"))
        assert not list(cluster.keys.glob(".tmp-*"))
        resize(cluster, "4m")
        cluster.done("keys.generate")
        assert cluster.problems() == {}


def test_a_full_disk_loses_nothing_in_rekey(ready: Any, needs: Callable[[str, object, str], None]) -> None:
    with small_disk(ready, 4096, needs):
        ready.workspace.master_key.chmod(0o600)
        ready.new_host_key("node1")
        before = ready.content()
        usage = os.statvfs(ready.keys)
        resize(ready, f"{(usage.f_blocks - usage.f_bfree + 3) * usage.f_frsize // 1024}k")
        assert full(ready.inv("keys.rekey"))
        assert ready.content() == before
        resize(ready, "4m")
        ready.done("keys.rekey")
        assert ready.problems() == {}


def test_two_at_once(ready: Any) -> None:
    import fcntl

    with (ready.workspace.state_dir / "keys.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "already being done" in ready.refused("keys.generate")


def test_no_secret_in_messages(ready: Any) -> None:
    master = ready.workspace.master_key.read_text().splitlines()[-1]
    token = ready.done("keys.show", "kube_token_root").strip()
    ready.workspace.master_key.write_text(master[:-1] + "Q\n")
    for task in ("keys.generate", "keys.check", "keys.rekey"):
        run = ready.inv(task, SMALLKUBE_DEBUG="1")
        assert master[20:-2] not in run.stdout + run.stderr
        assert token not in run.stdout + run.stderr


def test_nothing_is_left_in_the_folder_of_private_keys(ready: Any) -> None:
    assert [path.name for path in Path(ready.keys).iterdir() if path.name.startswith(".")] == [".gitignore"]
