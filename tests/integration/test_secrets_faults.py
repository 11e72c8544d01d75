"""What goes wrong in keys/ is found, said in one line or one row, and mended by the command that is named there.

Missing host keys, wrong master, damaged, swapped and stale files, contradictions, full disk, leaks into git.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallkube.secrets import age

Make = Callable[..., Any]


@pytest.fixture
def ready(make_cluster: Make) -> Any:
    """Two nodes, everything generated."""
    cluster = make_cluster((1, 2))
    cluster.done("keys.generate")
    return cluster


def problems(cluster: Any) -> dict[str, tuple[str, str]]:
    """File → fault and mend, as `keys.check --json` reports them."""
    run = cluster.inv("keys.check", "--json")
    rows = json.loads(run.stdout)["problems"]
    assert run.returncode == (1 if rows else 0), run.stderr
    assert "Traceback" not in run.stderr
    return {row["file"]: (row["fault"], row["mend"]) for row in rows}


def refused(cluster: Any, *words: str, status: int = 2) -> str:
    """The one line with which a task refuses; nothing under keys/ has changed."""
    before = cluster.snapshot()
    run = cluster.inv(*words)
    assert run.returncode == status, run.stdout + run.stderr
    assert cluster.snapshot() == before
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    return str(lines[0])


def without_master(cluster: Any) -> None:
    cluster.workspace.master_key.rename(cluster.private / "master_key")


def test_missing_host_keys_are_one_error_that_names_the_command(make_cluster: Make) -> None:
    cluster = make_cluster((1, 2, 3))
    for node in ("node2", "node3"):
        (cluster.workspace.hosts_keys_dir / f"{node}.pub").unlink()
    said = refused(cluster, "keys.generate")
    assert "no SSH host key of node2, node3" in said
    assert "inv keys.scan --node node2 --node node3" in said
    cluster.done("keys.generate", "--node", "node1")
    assert not list(cluster.keys.glob("*node2*"))
    assert "no SSH host key of node2" in refused(cluster, "keys.generate", "--node", "node2")


def test_second_run_changes_no_byte(ready: Any) -> None:
    before = ready.snapshot()
    assert "created 0" in ready.done("keys.generate")
    assert ready.snapshot() == before
    assert "re-encrypted 0" in ready.done("keys.rekey")
    assert ready.snapshot() == before


def test_dry_run_changes_nothing(make_cluster: Make) -> None:
    cluster = make_cluster((1, 2))
    before = cluster.snapshot()
    assert "would create keys/wgkube2.key.age" in cluster.done("keys.generate", "--dry-run")
    assert cluster.snapshot() == before


def test_a_new_node_creates_only_what_is_new(ready: Any) -> None:
    before = ready.content()
    ready.write_inventory((1, 2, 4))
    ready.new_host_key("node4")
    report = json.loads(ready.done("keys.generate", "--json"))
    assert set(report["created"]) == {
        "wgkube4.key.age",
        "kube_token_node4.age",
        "kubelet_node4.key.age",
        "kubelet_node4.crt",
    }
    assert report["rekey"] == []
    derived = {"peers.json", "secrets.nix", "recipients.json"}
    after = ready.content()
    assert {name for name in before if after[name] != before[name]} == derived
    assert problems(ready) == {}


def test_generation_without_the_private_master_key(ready: Any) -> None:
    without_master(ready)
    ready.write_inventory((1, 2, 3))
    ready.new_host_key("node3")
    ready.done("keys.generate")
    assert problems(ready) == {}
    (ready.keys / "kubelet_node2.crt").unlink()
    assert "keys/master_key" in refused(ready, "keys.generate")


def test_changed_policy_and_host_key_are_reported_and_rekey_touches_only_those(ready: Any) -> None:
    ready.new_host_key("node2")
    expected = {"wgkube2.key.age", "kube_token_node2.age", "kubelet_node2.key.age"}
    report = json.loads(ready.done("keys.generate", "--json"))
    assert {row["file"] for row in report["rekey"]} == expected
    assert {file for file, (_, mend) in problems(ready).items() if mend == "inv keys.rekey"} == expected
    before = ready.content()
    assert json.loads(ready.done("keys.rekey", "--dry-run", "--json"))["rekeyed"]
    assert ready.content() == before
    ready.done("keys.rekey")
    after = ready.content()
    assert {name for name in before if after[name] != before[name]} == expected | {"recipients.json"}
    assert problems(ready) == {}


def test_node_tokens_wireguard_lets_the_primary_read_the_wireguard_keys(ready: Any) -> None:
    ready.write_inventory((1, 2), secrets={"node_tokens": "wireguard"})
    report = json.loads(ready.done("keys.generate", "--json"))
    assert report["rekey"] == [{"file": "wgkube2.key.age", "why": "node1 can't read it"}]
    ready.done("keys.rekey")
    stale = problems(ready)
    assert set(stale) == {"kube_token_node1.age", "kube_token_node2.age"}
    assert stale["kube_token_node2.age"][1] == "git rm keys/kube_token_node2.age"
    ready.write_inventory((1, 2))
    ready.done("keys.generate")
    assert problems(ready)["wgkube2.key.age"][0] == "node1 can read it and must not"
    without_master(ready)
    assert problems(ready)["wgkube2.key.age"][0] == "node1 can read it and must not"


def test_removed_node_leaves_stale_files_that_are_only_reported(ready: Any) -> None:
    ready.write_inventory((1,))
    ready.done("keys.generate")
    assert set(problems(ready)) == {
        "wgkube2.key.age",
        "kube_token_node2.age",
        "kubelet_node2.key.age",
        "kubelet_node2.crt",
        "hosts/node2.pub",
    }


def test_wrong_master(ready: Any) -> None:
    text, _ = age.new_identity()
    ready.workspace.master_key.write_text(text)
    for task in (("keys.generate",), ("keys.check",), ("keys.rekey",), ("keys.show", "issuer.key")):
        assert "keys/master_key: " in refused(ready, *task)


def test_a_new_master_in_two_steps(ready: Any) -> None:
    old = ready.workspace.master_key.read_text()
    secret = ready.done("keys.show", "kube_token_root")
    text, recipient = age.new_identity()
    ready.workspace.master_key.write_text(text + old)
    assert problems(ready)["master_key"][1] == "inv keys.rekey"
    ready.done("keys.rekey")
    assert (ready.keys / "master_key.pub").read_text().strip() == recipient
    ready.workspace.master_key.write_text(text)
    assert problems(ready) == {}
    assert ready.done("keys.show", "kube_token_root") == secret


def test_the_master_is_never_made_anew_beside_existing_secrets(ready: Any) -> None:
    without_master(ready)
    (ready.keys / "master_key.pub").unlink()
    assert "restore master_key.pub from git" in refused(ready, "keys.generate")


@pytest.mark.parametrize("master_here", [True, False])
def test_damaged_files(ready: Any, master_here: bool) -> None:
    token, wireguard, issuer = (ready.keys / f"{name}.age" for name in ("kube_token_root", "wgkube1.key", "issuer.key"))
    token.write_bytes(token.read_bytes()[:100])
    wireguard.write_bytes(b"")
    flipped = bytearray(issuer.read_bytes())
    flipped[-1] ^= 1
    issuer.write_bytes(flipped)
    if not master_here:
        without_master(ready)
    found = problems(ready)
    assert found["kube_token_root.age"] == ("damaged age file: cut off inside the header", CHECKOUT + token.name)
    assert found["wgkube1.key.age"] == ("damaged age file: empty", CHECKOUT + wireguard.name)
    assert ("issuer.key.age" in found) is master_here  # only decrypting authenticates


CHECKOUT = "git checkout -- keys/"


def test_rekey_reports_what_it_cannot_open_and_mends_the_rest(ready: Any) -> None:
    ready.new_host_key("node2")
    damaged = ready.keys / "kube_token_node2.age"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    before = damaged.read_bytes()
    run = ready.inv("keys.rekey")
    assert run.returncode == 1 and "kube_token_node2.age is left as it is" in run.stderr
    assert damaged.read_bytes() == before
    assert set(problems(ready)) == {"kube_token_node2.age"}


def test_swapped_files(ready: Any) -> None:
    first, second = ready.keys / "wgkube1.key.age", ready.keys / "kubelet_node2.key.age"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert {"wgkube1.key.age", "kubelet_node2.key.age"} <= set(problems(ready))
    without_master(ready)
    assert {"wgkube1.key.age", "kubelet_node2.key.age"} <= set(problems(ready))


def test_two_secrets_of_one_reader_swapped_are_seen_with_the_master(ready: Any) -> None:
    first, second = ready.keys / "apiserver.key.age", ready.keys / "kubelet-client.key.age"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert problems(ready)["apiserver.crt"][0] == "is not over the key in apiserver.key.age"


def test_an_emptied_secret_is_seen_without_any_key(ready: Any) -> None:
    recipients = ready.keys.joinpath("master_key.pub").read_text(), (ready.private / "node1.pub").read_text()
    path = ready.keys / "kube_token_root.age"
    path.write_bytes(age.encrypt(b"", [text.strip() for text in recipients]))
    without_master(ready)
    assert problems(ready)["kube_token_root.age"][0] == "it holds nothing"


def test_one_without_the_other_is_refused_with_every_contradiction(ready: Any) -> None:
    (ready.keys / "apiserver.key.age").unlink()
    (ready.keys / "wgkube2.key.age").unlink()
    before = ready.snapshot()
    run = ready.inv("keys.generate")
    assert run.returncode == 2
    assert "keys/apiserver.key.age: is missing, but apiserver.crt is here" in run.stderr
    assert "keys/wgkube2.key.age: is missing, but peers.json has its public key" in run.stderr
    assert ready.snapshot() == before


def test_lost_public_halves_are_derived_again(ready: Any) -> None:
    peers = ready.workspace.peers_file
    before = peers.read_bytes()
    peers.unlink()
    (ready.keys / "apiserver.crt").unlink()
    assert {"peers.json", "apiserver.crt"} <= set(problems(ready))
    ready.done("keys.generate")
    assert peers.read_bytes() == before
    assert problems(ready) == {}


def test_peers_json_with_another_key_or_address(ready: Any) -> None:
    peers = json.loads(ready.workspace.peers_file.read_text())
    peers[1]["PublicKey"], peers[0]["PeerIP"], peers[0]["Region"] = peers[0]["PublicKey"], "10.0.0.1", "eu"
    ready.workspace.peers_file.write_text(json.dumps(peers))
    run = ready.inv("keys.check")
    assert "the PublicKey of node2 is not that of its private key" in run.stdout
    assert "PeerIP of node1 was 10.0.0.1" in run.stdout
    assert "PeerIP of node1 was 10.0.0.1" in ready.done("keys.generate")
    assert json.loads(ready.workspace.peers_file.read_text())[0]["Region"] == "eu"


def test_certificates_that_no_longer_fit_the_inventory(ready: Any) -> None:
    ready.write_inventory((1, 2), api={"external_host": "new.example.com"})
    fault, mend = problems(ready)["apiserver.crt"]
    assert "test-kube.example.com" in fault or "new.example.com" in fault
    subprocess.run(shlex.split(mend.split(" && ")[0]), cwd=ready.workspace.root, check=True)
    ready.done("keys.generate")
    assert problems(ready) == {}


def test_changed_encrypted_resources(ready: Any) -> None:
    ready.write_inventory((1, 2), secrets={"encrypted_resources": ["secrets", "configmaps"]})
    assert problems(ready)["EncryptionConfiguration.yaml.age"][1] == "inv keys.edit EncryptionConfiguration.yaml"


def test_cloned_machines_are_refused(ready: Any) -> None:
    hosts = ready.workspace.hosts_keys_dir
    shutil.copy(hosts / "node1.pub", hosts / "node2.pub")
    assert "node1 and node2 have the same host key" in refused(ready, "keys.generate")


@pytest.mark.parametrize("name", ["recipients.json", "peers.json", "hosts/node1.pub", "master_key.pub", "master_key"])
def test_files_of_garbage_give_one_line(ready: Any, name: str) -> None:
    (ready.keys / name).write_bytes(b"\xff\x00garbage\n\n[")
    assert f"keys/{name}" in refused(ready, "keys.generate")


def test_modes_and_private_keys_in_clear(ready: Any) -> None:
    ready.workspace.master_key.chmod(0o644)
    (ready.keys / "secrets.nix").chmod(0o666)
    shutil.copy(ready.identity("node1"), ready.keys / "node1-backup")
    found = problems(ready)
    assert found["master_key"] == ("mode 0644 instead of 0600", "chmod 600 keys/master_key")
    assert "anyone" in found["secrets.nix"][0]
    assert "in clear" in found["node1-backup"][0]


def test_git_must_ignore_the_master_key(ready: Any, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", shutil.which("git"), "git")
    root = ready.workspace.root

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    assert problems(ready) == {}
    git("add", "-A")
    assert "keys/master_key\n" not in git("ls-files")
    (ready.keys / ".gitignore").write_text("")
    assert problems(ready)["master_key"] == ("git does not ignore it", "echo /master_key >> keys/.gitignore")
    git("add", "-f", "keys/master_key")
    assert "tracked" in problems(ready)["master_key"][0]


def test_old_token_during_a_rotation(ready: Any) -> None:
    shutil.copy(ready.keys / "kube_token_node2.age", ready.keys / "kube_token_node2.old.age")
    ready.done("keys.generate")
    assert '"kube_token_node2.old.age".publicKeys = [ master node1 node2 ]' in ready.workspace.secrets_nix.read_text()
    assert problems(ready) == {}
    ready.new_host_key("node2")
    assert "kube_token_node2.old.age" in ready.done("keys.rekey")


def test_a_full_disk_loses_nothing(make_cluster: Make, needs: Callable[[str, object, str], None]) -> None:
    needs("integration", os.geteuid() == 0, "root, to mount a small tmpfs")
    cluster = make_cluster((1, 2, 3, 4))
    hosts = cluster.content()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", str(cluster.keys)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    needs("integration", mounted.returncode == 0, f"mount: {mounted.stderr.strip()}")
    try:
        for name, data in hosts.items():
            path = cluster.keys / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        run = cluster.inv("keys.generate")
        assert run.returncode == 1, run.stdout
        assert "No space left on device" in run.stderr and len(run.stderr.strip().splitlines()) == 1
        assert not list(cluster.keys.glob(".tmp-*")) and not list(cluster.keys.glob("*.crt"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(cluster.keys)], check=True)
        cluster.done("keys.generate")
        assert problems(cluster) == {}
    finally:
        subprocess.run(["umount", str(cluster.keys)], check=True)


def test_two_at_once(ready: Any) -> None:
    import fcntl

    with (ready.workspace.state_dir / "keys.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "already being done" in refused(ready, "keys.generate")


def test_list_and_show(ready: Any) -> None:
    rows = {row["name"]: row for row in json.loads(ready.done("keys.list", "--json"))}
    assert rows["kube_token_node2"]["readers"] == ["master", "node1", "node2"]
    assert "wgkube2.key " in ready.done("keys.list")
    for name in ("kube_token_root", "kube_token_root.age", "keys/kube_token_root.age"):
        assert len(ready.done("keys.show", name)) == 65
    assert "no secret 'nothing'" in refused(ready, "keys.show", "nothing")
    assert yaml.safe_load(ready.done("keys.show", "EncryptionConfiguration.yaml"))["kind"] == "EncryptionConfiguration"
    without_master(ready)
    assert "keys/master_key: is not here" in refused(ready, "keys.show", "kube_token_root")


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
