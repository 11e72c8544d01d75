"""Other programs on our files: age opens each for exactly its readers; wg, ssh-keygen and Nix agree with us.

A 5-node inventory with a hole, all pairs of file and host, both ways of node tokens.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallkube.secrets import policy
from smallkube.secrets.host_keys import parse_host_key

INDICES = (1, 2, 3, 5, 6)


@pytest.fixture(autouse=True)
def tools(needs: Callable[[str, object, str], None]) -> None:
    for program, package in (("age", "age"), ("wg", "wireguard-tools"), ("nix-instantiate", "nix-bin")):
        needs("integration", shutil.which(program), f"{program} ({package})")


def age_decrypt(identity: Path, file: Path) -> bytes | None:
    run = subprocess.run(["age", "--decrypt", "-i", str(identity), str(file)], capture_output=True)
    return run.stdout if run.returncode == 0 else None


def test_every_file_opens_for_exactly_its_readers(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster(INDICES)
    cluster.done("keys.generate")
    rows = {row.file: row for row in policy.secrets_of(cluster.inventory)}
    files = sorted(cluster.keys.glob("*.age"))
    assert {path.name for path in files} == set(rows)
    for path in files:
        opened = {
            name: text
            for name in ("master", *(node.name for node in cluster.inventory.nodes))
            if (text := age_decrypt(cluster.identity(name), path)) is not None
        }
        assert set(opened) == {"master", *rows[path.name].readers}, path.name
        assert len(set(opened.values())) == 1


def test_wg_derives_the_public_keys_of_peers_json(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster(INDICES)
    cluster.done("keys.generate")
    peers = json.loads(cluster.workspace.peers_file.read_text())
    assert [index for index, peer in enumerate(peers, 1) if peer] == list(INDICES)
    assert peers[3] is None
    for index in INDICES:
        private = age_decrypt(cluster.identity(f"node{index}"), cluster.keys / f"wgkube{index}.key.age")
        assert private is not None
        public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, check=True).stdout
        assert public.decode().strip() == peers[index - 1]["PublicKey"]
        assert peers[index - 1]["PeerIP"] == f"192.168.0.{index}"


def test_ssh_keygen_prints_the_same_fingerprint(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster((1,))
    path = cluster.workspace.hosts_keys_dir / "node1.pub"
    printed = subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=True).stdout
    assert printed.split()[1] == parse_host_key(path.read_text(), "x").fingerprint


def nix(folder: Path, expression: str) -> object:
    argv = ["nix-instantiate", "--json", "--eval", "--strict", "-E", expression]
    return json.loads(subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True).stdout)


def test_secrets_nix_as_agenix_evaluates_it(make_cluster: Callable[..., Any]) -> None:
    cluster = make_cluster(INDICES)
    cluster.done("keys.generate")
    names = nix(cluster.keys, "(let rules = import ./secrets.nix; in builtins.attrNames rules)")
    assert names == sorted(path.name for path in cluster.keys.glob("*.age"))
    master = (cluster.keys / "master_key.pub").read_text().strip()
    rules = nix(cluster.keys, "import ./secrets.nix")
    assert isinstance(rules, dict)
    for row in policy.secrets_of(cluster.inventory):
        hosts = [(cluster.workspace.hosts_keys_dir / f"{node}.pub").read_text() for node in row.readers]
        expected = [master, *(" ".join(text.split()[:2]) for text in hosts)]
        assert rules[row.file] == {"publicKeys": expected}


@pytest.mark.parametrize("armor", [[], ["--armor"]])
def test_a_file_that_the_age_cli_wrote_is_ours_too(make_cluster: Callable[..., Any], armor: list[str]) -> None:
    cluster = make_cluster((1, 2))
    cluster.done("keys.generate")
    name = "kube_token_root.age"
    rules = nix(cluster.keys, "import ./secrets.nix")
    assert isinstance(rules, dict)
    recipients = [word for key in rules[name]["publicKeys"] for word in ("--recipient", key)]
    argv = ["age", *armor, *recipients, "-o", str(cluster.keys / name)]
    subprocess.run(argv, input=b"t" * 64, check=True)
    assert cluster.done("keys.show", name) == "t" * 64
    assert json.loads(cluster.done("keys.check", "--json"))["problems"] == []
    cluster.workspace.master_key.rename(cluster.private / "master_key")
    proofs = {row["file"]: row["proof"] for row in json.loads(cluster.done("keys.check", "--json"))["proofs"]}
    assert proofs.pop(name) == "header"
    assert set(proofs.values()) == {"recorded"}
