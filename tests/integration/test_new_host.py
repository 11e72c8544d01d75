"""The host key of a machine that is not there yet: sshd and age take it, and it is the only one accepted."""

import stat
import subprocess
from pathlib import Path
from typing import Any

from smallkube.core.files import TEMPORARY_PREFIX

PRIVATE = "etc/ssh/ssh_host_ed25519_key"


def test_the_machine_decrypts_its_secrets_at_first_boot(ready: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ready.write_inventory((1, 2, 3))
    ready.done("keys.new-host", "node3", "--out", str(out))
    ready.done("keys.generate")
    assert ready.problems() == {}
    wireguard = ready.keys / "wgkube3.key.age"
    argv = ["age", "--decrypt", "--identity", str(out / PRIVATE), str(wireguard)]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert len(done.stdout.strip()) == 44


def test_openssh_takes_the_key_and_it_is_private(ready: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ready.write_inventory((1, 2, 3))
    run = ready.inv("keys.new-host", "node3", "--out", str(out))
    key = out / PRIVATE
    argv = ["ssh-keygen", "-y", "-f", str(key)]
    public = subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split()[:2]
    assert (ready.keys / "hosts/node3.pub").read_text().split() == [*public, "node3"]
    assert (out / f"{PRIVATE}.pub").read_text().split()[:2] == public
    argv = ["ssh-keygen", "-lf", str(ready.keys / "hosts/node3.pub")]
    fingerprint = subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split()[1]
    assert fingerprint in run.stderr
    assert (stat.S_IMODE(out.stat().st_mode), stat.S_IMODE(key.stat().st_mode)) == (0o700, 0o600)
    assert not [*out.rglob(f"{TEMPORARY_PREFIX}*")]
    assert not any(line in run.stdout + run.stderr for line in key.read_text().splitlines())


def test_a_key_that_is_there_is_kept(ready: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ready.refused("keys.new-host", "node2", "--out", str(out))
    assert line == "keys/hosts/node2.pub: is there already; pass --replace for a new machine"
    assert not out.exists()
    assert "inv keys.rekey" in ready.inv("keys.new-host", "node2", "--out", str(out), "--replace").stderr
    assert ready.problems() != {}
    ready.done("keys.rekey")
    assert ready.problems() == {}


def test_a_folder_that_exists_is_refused(ready: Any, tmp_path: Path) -> None:
    ready.write_inventory((1, 2, 3))
    assert "exists already; name a new folder" in ready.refused("keys.new-host", "node3", "--out", str(tmp_path))
    assert "no node 'node9'" in ready.refused("keys.new-host", "node9", "--out", str(tmp_path / "out"))
