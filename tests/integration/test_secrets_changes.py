"""Changes that a cluster goes through: new and removed nodes, new host keys, a new master, other options.

Each run creates only what is new, re-encrypts only what must be, and a run without need changes no byte.
"""

import json
import shutil
from collections.abc import Callable
from typing import Any

import yaml

from smallkube.secrets import age

Make = Callable[..., Any]


def test_missing_host_keys_are_one_error_that_names_the_command(make_cluster: Make) -> None:
    cluster = make_cluster((1, 2, 3))
    for node in ("node2", "node3"):
        (cluster.workspace.hosts_keys_dir / f"{node}.pub").unlink()
    said = cluster.refused("keys.generate")
    assert "no SSH host key of node2, node3" in said
    assert "inv keys.scan --node node2 --node node3" in said
    cluster.done("keys.generate", "--node", "node1")
    assert not list(cluster.keys.glob("*node2*"))
    assert "no SSH host key of node2" in cluster.refused("keys.generate", "--node", "node2")


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
        *(f"{word}_node4.{end}" for word in ("kubelet", "node", "coredns", "kube-proxy") for end in ("key.age", "crt")),
    }
    assert report["rekey"] == []
    derived = {"peers.json", "secrets.nix", "recipients.json", "state.json"}
    after = ready.content()
    assert {name for name in before if after[name] != before[name]} == derived
    assert ready.problems() == {}


def test_generation_without_the_private_master_key(ready: Any) -> None:
    ready.without_master()
    ready.write_inventory((1, 2, 3))
    ready.new_host_key("node3")
    ready.done("keys.generate")
    assert ready.problems() == {}
    (ready.keys / "kubelet_node2.crt").unlink()
    assert "keys/master_key" in ready.refused("keys.generate")


def test_rekey_touches_only_what_policy_or_host_key_changed(ready: Any) -> None:
    ready.new_host_key("node2")
    expected = {"wgkube2.key.age", *(f"{word}_node2.key.age" for word in ("kubelet", "node", "coredns", "kube-proxy"))}
    report = json.loads(ready.done("keys.generate", "--json"))
    assert {row["file"] for row in report["rekey"]} == expected
    assert {file for file, (_, fix) in ready.problems().items() if fix == "inv keys.rekey"} == expected
    before = ready.content()
    assert json.loads(ready.done("keys.rekey", "--dry-run", "--json"))["rekeyed"]
    assert ready.content() == before
    ready.done("keys.rekey")
    after = ready.content()
    assert {name for name in before if after[name] != before[name]} == expected | {"recipients.json", "state.json"}
    assert ready.problems() == {}


def test_removed_node_leaves_stale_files_that_are_only_reported(ready: Any) -> None:
    ready.write_inventory((1,))
    ready.done("keys.generate")
    assert set(ready.problems()) == {
        "wgkube2.key.age",
        *(f"{word}_node2.{end}" for word in ("kubelet", "node", "coredns", "kube-proxy") for end in ("key.age", "crt")),
        "hosts/node2.pub",
    }


def test_a_new_master_in_two_steps(ready: Any) -> None:
    old = ready.workspace.master_key.read_text()
    secret = ready.done("keys.show", "kube_token_root")
    text, recipient = age.new_identity()
    ready.workspace.master_key.write_text(text + old)
    assert ready.problems()["master_key"][1] == "inv keys.rekey"
    assert "without --node" in ready.refused("keys.rekey", "--node", "node2")
    ready.done("keys.rekey")
    assert (ready.keys / "master_key.pub").read_text().strip() == recipient
    ready.workspace.master_key.write_text(text)
    assert ready.problems() == {}
    assert ready.done("keys.show", "kube_token_root") == secret


def test_no_new_master_is_made_for_existing_secrets(ready: Any) -> None:
    ready.without_master()
    (ready.keys / "master_key.pub").unlink()
    assert "restore master_key.pub from git" in ready.refused("keys.generate")


def test_lost_public_halves_are_derived_again(ready: Any) -> None:
    peers = ready.workspace.peers_file
    before = peers.read_bytes()
    peers.unlink()
    (ready.keys / "apiserver.crt").unlink()
    assert {"peers.json", "apiserver.crt"} <= set(ready.problems())
    ready.done("keys.generate")
    assert peers.read_bytes() == before
    assert ready.problems() == {}


def test_certificates_that_no_longer_fit_the_inventory(ready: Any) -> None:
    ready.write_inventory((1, 2), api={"external_host": "new.example.com"})
    fault, fix = ready.problems()["apiserver.crt"]
    assert "test-kube.example.com" in fault or "new.example.com" in fault
    assert fix == "inv keys.rotate-certificates"
    ready.done("keys.rotate-certificates", "--no-deploy", "--yes")
    assert ready.problems() == {}


def test_changed_encrypted_resources(ready: Any) -> None:
    ready.write_inventory((1, 2), secrets={"encrypted_resources": ["secrets", "configmaps"]})
    assert ready.problems()["EncryptionConfiguration.yaml.age"][1] == "inv encryption.rotate"
    ready.write_inventory((1, 2), secrets={"encrypted_resources": ["configmaps"]})
    fix = "add secrets to cluster.secrets.encrypted_resources again: objects are encrypted"
    assert ready.problems()["EncryptionConfiguration.yaml.age"][1] == fix


def test_old_token_during_a_rotation(ready: Any) -> None:
    shutil.copy(ready.keys / "kube_token_root.age", ready.keys / "kube_token_root.old.age")
    ready.done("keys.generate")
    assert '"kube_token_root.old.age".publicKeys = [ master node1 ]' in ready.workspace.secrets_nix.read_text()
    assert ready.problems() == {}
    ready.new_host_key("node1")
    assert "kube_token_root.old.age" in ready.done("keys.rekey")


def test_list_and_show(ready: Any) -> None:
    rows = {row["name"]: row for row in json.loads(ready.done("keys.list", "--json"))}
    assert rows["node_node2.key"]["readers"] == ["master", "node2"]
    assert "wgkube2.key " in ready.done("keys.list")
    for name in ("kube_token_root", "kube_token_root.age", "keys/kube_token_root.age"):
        assert len(ready.done("keys.show", name)) == 65
    assert "no secret 'nothing'" in ready.refused("keys.show", "nothing")
    assert yaml.safe_load(ready.done("keys.show", "EncryptionConfiguration.yaml"))["kind"] == "EncryptionConfiguration"
    ready.without_master()
    assert "keys/master_key: not found" in ready.refused("keys.show", "kube_token_root")
