"""Replaced WireGuard keys and certificates in the eyes of wg, age and openssl; nothing else is touched.

Each new WireGuard key opens for exactly its readers and fits peers.json, without the master's private key; each new
certificate is over a new private key, and only those with a fault are replaced unless all are asked for.
"""

import base64
import datetime
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallkube.operations import certificates as rotation
from smallkube.operations.certificates import Stage
from smallkube.secrets import age, certificates, policy, transaction
from smallkube.secrets.transaction import changing_keys, read_keys

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def tools(needs: Callable[[str, object, str], None]) -> None:
    for program, package in (("age", "age"), ("wg", "wireguard-tools"), ("openssl", "openssl")):
        needs("integration", shutil.which(program), f"{program} ({package})")


def opened(identity: Path, file: Path) -> bytes | None:
    run = subprocess.run(["age", "--decrypt", "-i", str(identity), str(file)], capture_output=True)
    return run.stdout if run.returncode == 0 else None


def changed(cluster: Any, before: dict[str, bytes]) -> set[str]:
    after = cluster.content()
    assert set(after) == set(before)
    names = {name for name in before if after[name] != before[name]}
    assert ("state.json" in names) == bool(names)
    return names - {"state.json"}


def test_new_keys_for_exactly_their_readers_that_wg_knows(make_cluster: Make) -> None:
    indices = (1, 2, 4)
    cluster = make_cluster(indices)
    cluster.done("keys.generate")
    cluster.without_master()
    before, old_peers = cluster.content(), json.loads(cluster.workspace.peers_file.read_text())
    run = cluster.inv("keys.rotate-wireguard", "--yes")
    assert run.returncode == 0, run.stderr
    assert "inv deploy" in run.stderr
    files = {f"wgkube{index}.key.age" for index in indices}
    assert changed(cluster, before) == files | {"peers.json", "recipients.json"}
    peers = json.loads(cluster.workspace.peers_file.read_text())
    identities = {"master": cluster.private / "master_key"}
    identities |= {f"node{index}": cluster.identity(f"node{index}") for index in indices}
    for row in policy.secrets_of(cluster.inventory):
        if row.file not in files:
            continue
        texts = {name: opened(identity, cluster.keys / row.file) for name, identity in identities.items()}
        assert {name for name, text in texts.items() if text} == {"master", *row.readers}
        index = int(row.node.removeprefix("node"))
        public = subprocess.run(["wg", "pubkey"], input=texts["master"], capture_output=True, check=True).stdout
        assert public.decode().strip() == peers[index - 1]["PublicKey"] != old_peers[index - 1]["PublicKey"]
    assert cluster.problems() == {}


def test_only_the_named_node_and_what_another_tool_wrote_stays(ready: Any) -> None:
    peers = json.loads(ready.workspace.peers_file.read_text())
    peers[1]["Zone"] = "a"
    ready.workspace.peers_file.write_text(json.dumps(peers, indent=2) + "\n")
    before = ready.content()
    report = json.loads(ready.done("keys.rotate-wireguard", "--node", "node2", "--yes", "--json"))
    assert report["rotated"] == ["node2"] and report["peers"] == ["node2 has a new public key"]
    assert changed(ready, before) == {"wgkube2.key.age", "peers.json", "recipients.json"}
    after = json.loads(ready.workspace.peers_file.read_text())
    assert after[0] == peers[0] and after[1]["Zone"] == "a"
    assert ready.problems() == {}


def test_nothing_changes_without_consent_or_in_a_dry_run(ready: Any) -> None:
    before, asked = ready.snapshot(), ready.inv("keys.rotate-wireguard")
    silent, refused = asked.stderr.splitlines()
    assert (asked.returncode, "no answer from node1, node2" in silent, "--yes" in refused) == (2, True, True)
    assert "would make new WireGuard keys: node1, node2" in ready.done("keys.rotate-wireguard", "--dry-run")
    assert "would issue 11" in ready.done("keys.rotate-certificates", "--all", "--dry-run")
    assert ready.snapshot() == before
    assert "node7" in ready.refused("keys.rotate-wireguard", "--node", "node7", "--yes")


def test_nothing_to_rotate_yet_and_no_host_key(make_cluster: Make) -> None:
    cluster = make_cluster((1, 2))
    assert "inv keys.generate" in cluster.refused("keys.rotate-wireguard", "--yes")
    cluster.done("keys.generate")
    (cluster.workspace.hosts_keys_dir / "node2.pub").unlink()
    assert "inv keys.scan --node node2" in cluster.refused("keys.rotate-wireguard", "--yes")
    cluster.done("keys.rotate-wireguard", "--node", "node1", "--yes")


def test_it_fixes_what_check_names_it_for(ready: Any) -> None:
    peers = json.loads(ready.workspace.peers_file.read_text())
    peers[1]["PublicKey"] = peers[0]["PublicKey"]
    ready.workspace.peers_file.write_text(json.dumps(peers))
    fix = ready.problems()["peers.json"][1]
    assert fix == "inv keys.rotate-wireguard --node node2"
    ready.done(*fix.removeprefix("inv ").split(), "--yes")
    assert ready.problems() == {}
    (ready.keys / "wgkube2.key.age").unlink()
    assert fix in ready.refused("keys.generate")
    ready.done(*fix.removeprefix("inv ").split(), "--yes")
    assert ready.problems() == {}


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=True).stdout


def public_half(cluster: Any, name: str) -> str:
    key = cluster.private / f"{name}.pem"
    key.write_bytes(cluster.done("keys.show", name).encode())
    return openssl("pkey", "-in", key, "-pubout")


REPLACE = ("keys.rotate-certificates", "--no-deploy", "--yes")
API = {"apiserver.crt", "apiserver.key.age", "recipients.json"}


def test_certificates_with_other_names_get_new_keys(ready: Any) -> None:
    before = ready.content()
    ready.write_inventory((1, 2), api={"external_host": "new.example.com"})
    assert {row[1] for row in ready.problems().values()} == {"inv keys.rotate-certificates"}
    assert "issued 0" in ready.done("keys.rotate-certificates", "--node", "node2")
    assert changed(ready, before) == set()
    old = public_half(ready, "apiserver.key")
    run = ready.inv(*REPLACE)
    assert run.returncode == 0 and "issued 1, kept 10" in run.stdout
    assert "inv deploy" in run.stderr and "kubeconfigs" in run.stderr
    assert changed(ready, before) == API
    path = ready.keys / "apiserver.crt"
    text = openssl("x509", "-in", path, "-noout", "-ext", "subjectAltName,basicConstraints,extendedKeyUsage")
    assert "DNS:new.example.com" in text and "CA:FALSE" in text and "TLS Web Server Authentication" in text
    openssl("verify", "-x509_strict", "-partial_chain", "-trusted", path, path)
    assert openssl("x509", "-in", path, "-noout", "-pubkey") == public_half(ready, "apiserver.key") != old
    assert ready.problems() == {}


def rows_with_certificate(cluster: Any) -> dict[str, policy.Secret]:
    return {row.certificate.file: row for row in policy.secrets_of(cluster.inventory) if row.certificate}


def issue(cluster: Any, file: str, *, days: int = 0, key: bytes | None = None) -> None:
    """Issue ``file`` ten years and ``days`` ago, over ``key`` or the right one."""
    row = rows_with_certificate(cluster)[file]
    assert row.certificate
    master = age.parse_master(cluster.workspace.master_key.read_text(), "m")
    right = age.decrypt((cluster.keys / row.file).read_bytes(), master, row.file)
    when = datetime.datetime.now(datetime.UTC) - certificates.LIFETIME - datetime.timedelta(days=days)
    when = when if days else datetime.datetime.now(datetime.UTC)
    (cluster.keys / file).write_bytes(certificates.issue(row.certificate, key or right, when))


def test_each_kind_of_unusable_certificate_is_replaced(ready: Any) -> None:
    issue(ready, "apiserver.crt", days=-59)
    issue(ready, "kubelet-client.crt", days=3)
    issue(ready, "front-proxy-client.crt", days=1)
    issue(ready, "kubelet_node1.crt", key=certificates.new_key())
    (ready.keys / "kubelet_node2.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    before = ready.content()
    faults = ready.problems()
    unusable = {
        "apiserver.crt",
        "kubelet-client.crt",
        "front-proxy-client.crt",
        "kubelet_node1.crt",
        "kubelet_node2.crt",
    }
    assert {file: fix for file, (_, fix) in faults.items()} == dict.fromkeys(unusable, "inv keys.rotate-certificates")
    report = json.loads(ready.done(*REPLACE, "--json"))
    assert {row["file"]: row["why"] for row in report["issued"]} == {file: why for file, (why, _) in faults.items()}
    keys = {row.file for file, row in rows_with_certificate(ready).items() if file in unusable}
    assert changed(ready, before) == {*unusable, *keys, "recipients.json"}
    for file in rows_with_certificate(ready):
        openssl("x509", "-in", ready.keys / file, "-noout", "-checkend", str(3600 * 24 * 3600))
    assert ready.problems() == {}
    (ready.keys / "apiserver.crt").unlink()
    assert "keys/apiserver.crt: missing" in ready.done(*REPLACE)
    assert ready.problems() == {}


def test_a_valid_certificate_is_kept_without_all(ready: Any) -> None:
    issue(ready, "apiserver.crt", days=-62)
    before = ready.content()
    assert "issued 0, kept 11" in ready.done("keys.rotate-certificates")
    assert changed(ready, before) == set()
    assert "issued 4" in ready.done(*REPLACE, "--all", "--node", "node2")
    of_node2 = {file: row.file for file, row in rows_with_certificate(ready).items() if row.node == "node2"}
    assert changed(ready, before) == {*of_node2, *of_node2.values(), "recipients.json"}
    assert "issued 11" in ready.done(*REPLACE, "--all")
    assert changed(ready, before) >= set(rows_with_certificate(ready))


def test_rotation_without_the_master_names_a_damaged_key(ready: Any) -> None:
    data = bytearray((ready.keys / "apiserver.key.age").read_bytes())
    data[-1] ^= 1
    (ready.keys / "apiserver.key.age").write_bytes(data)
    run = ready.inv(*REPLACE, "--all")
    assert run.returncode == 1
    assert "keys/apiserver.key.age: damaged" in run.stderr and "Traceback" not in run.stderr
    ready.without_master()
    assert "issued 11" in ready.done(*REPLACE, "--all")
    assert ready.problems() == {}


def test_at_each_step_of_a_rotation_keys_are_as_they_should_be(ready: Any) -> None:
    """What a deploy between two steps would bring to the machines, in the eyes of the other tasks and of openssl."""
    rows = [row for row in policy.secrets_of(ready.inventory) if row.certificate]
    given = policy.secrets_by_node(ready.inventory, ready.content())
    first = ready.content()["apiserver.crt"]

    def step(make: Callable[..., transaction.Change], *more: Any) -> tuple[bytes, bytes]:
        with changing_keys(ready.workspace):
            transaction.apply(ready.cluster, make(rows, *more))
        assert ready.problems() == {}
        assert "created 0" in ready.done("keys.generate")
        content = ready.content()
        assert policy.secrets_by_node(ready.inventory, content) == given
        key = ready.done("keys.show", "apiserver.key").encode()
        assert certificates.belongs(certificates.load(content["apiserver.crt"], "c"), key, "k")
        beside = [content[name] for name in ("apiserver.new.crt", "apiserver.old.crt") if name in content]
        kubeconfig = json.loads(ready.done("cluster.kubeconfig", "--out", "-"))
        authorities = base64.b64decode(kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"])
        assert authorities == b"".join((content["apiserver.crt"], *beside))
        assert len({rotation.stage_of(row, read_keys(ready.workspace)) for row in rows}) == 1
        return content["apiserver.crt"], b"".join(beside)

    used, second = step(rotation.issued)
    assert used == first
    trust = ready.private / "trust"
    for order in ((first, second), (second, first)):
        trust.write_bytes(b"".join(order))
        for number, pem in enumerate(order):
            (ready.private / f"{number}.crt").write_bytes(pem)
            # Two of the same name would hide each other.
            openssl("verify", "-x509_strict", "-partial_chain", "-trusted", trust, ready.private / f"{number}.crt")
    assert step(rotation.SWITCH) == (second, first)
    assert step(rotation.SWITCH_BACK) == (first, second)
    assert step(rotation.SWITCH) == (second, first)
    assert step(rotation.untrusted) == (second, b"")
    assert rotation.stage_of(rows[0], read_keys(ready.workspace)) is Stage.DEPLOY_PENDING
    assert step(rotation.ended) == (second, b"")
    assert not [name for name in ready.content() if ".old." in name or ".new." in name]
