"""Proves `cluster.kubeconfig` on real keys, without a cluster: what stands in its way is one line, the file holds the
token and nothing else does, and a certificate of before is met under a name that it has.
"""

import json
from typing import Any

import yaml


def config(text: str) -> tuple[dict[str, Any], str]:
    """The cluster of a kubeconfig, and its token."""
    found = json.loads(text)
    return found["clusters"][0]["cluster"], found["users"][0]["user"]["token"]


def test_the_file_holds_roots_token_and_says_nothing_of_it(ready: Any) -> None:
    run = ready.inv("cluster.kubeconfig")
    file = ready.workspace.state_dir / "kubeconfig"
    cluster, token = config(file.read_text())
    assert token == ready.done("keys.show", "kube_token_root").strip()
    assert token not in run.stdout + run.stderr
    assert (run.returncode, run.stdout, file.stat().st_mode & 0o7777) == (0, f"{file}\n", 0o600)
    assert cluster["server"] == "https://test-kube.example.com:6443"
    assert "tls-server-name" not in cluster
    assert yaml.safe_load(file.read_text())["current-context"] == "test"


def test_it_follows_a_change_and_leaves_no_other_file(ready: Any) -> None:
    ready.done("cluster.kubeconfig")
    ready.done("cluster.kubeconfig", "--via", "tunnel")
    file = ready.workspace.state_dir / "kubeconfig"
    assert config(file.read_text())[0]["server"] == "https://[fd88:1::1]:6443"
    assert not list(file.parent.glob(".tmp-*"))


def test_a_file_to_which_something_was_added_is_kept(ready: Any) -> None:
    ready.done("cluster.kubeconfig")
    file = ready.workspace.state_dir / "kubeconfig"
    mine = json.loads(file.read_text())
    mine["contexts"].append({"name": "work", "context": {}})
    file.write_text(json.dumps(mine))
    assert "would be lost" in ready.refused("cluster.kubeconfig")
    assert json.loads(file.read_text()) == mine


def test_the_token_needs_the_master_key(ready: Any) -> None:
    ready.without_master()
    assert "to read secrets" in ready.refused("cluster.kubeconfig")
    assert not (ready.workspace.state_dir / "kubeconfig").exists()


def test_a_certificate_that_is_missing_or_damaged(ready: Any) -> None:
    certificate = ready.keys / "apiserver.crt"
    certificate.write_text("nonsense")
    assert "keys/apiserver.crt: not a certificate" in ready.refused("cluster.kubeconfig", status=1)
    certificate.unlink()
    assert "keys/apiserver.crt: missing" in ready.refused("cluster.kubeconfig")


def test_a_certificate_of_the_previous_host_name_is_verified(ready: Any) -> None:
    ready.write_inventory((1, 2), api={"external_host": "new.example.com"})
    cluster, _ = config(ready.done("cluster.kubeconfig", "--out", "-"))
    assert (cluster["server"], cluster["tls-server-name"]) == ("https://new.example.com:6443", "api.k8s.internal")
    ready.done("keys.rotate-certificates", "--no-deploy", "--yes")
    assert "tls-server-name" not in config(ready.done("cluster.kubeconfig", "--out", "-"))[0]


def test_unverified_connections_are_reported(ready: Any) -> None:
    ready.write_inventory((1, 2), api={"tls": "insecure"})
    run = ready.inv("cluster.kubeconfig", "--out", "-")
    assert config(run.stdout)[0]["insecure-skip-tls-verify"] is True
    assert "warning: cluster.api.tls is insecure" in run.stderr
