"""Proves on a real cluster that its state is told as it is while parts of it are down, one line for each thing that is
wrong; that an upgrade is judged by what runs; that the administrator's kubeconfig lets in, and is given to nobody else.
"""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes import MINOR
from tests.cluster.conftest import LabCluster


@pytest.fixture(scope="module")
def well(cluster: LabCluster) -> LabCluster:
    """The shared cluster, with a backup: of nothing else could be said that it is not well."""
    cluster.operator.done("etcd.backup")
    cluster.eventually("all is well", lambda: not problems(cluster))
    return cluster


def state(cluster: LabCluster) -> tuple[dict[str, Any], list[str]]:
    """What cluster.status says as JSON, and the lines on standard error; the status must fit."""
    done = cluster.operator.inv("cluster.status", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(found["problems"]), done.stderr
    lines = done.stderr.strip().removesuffix(" (log: .smallkube/log)").splitlines()
    assert lines == found["problems"]
    return found, lines


def problems(cluster: LabCluster) -> list[str]:
    return state(cluster)[1]


def version(cluster: LabCluster) -> str:
    """What all of the lab's Kubernetes is of, "v1.36.3"."""
    found: str = cluster.get("node", "node1.k8s.internal")["status"]["nodeInfo"]["kubeletVersion"]
    return found


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["node"]: row for row in found["nodes"]}


@contextmanager
def broken(cluster: LabCluster, node: str, breaking: str, mending: str) -> Iterator[None]:
    """The shared cluster with a fault, until every node is Ready again and nothing else is wrong."""
    machine = cluster.machine(node)
    machine.check("sh", "-c", breaking)
    try:
        yield
    finally:
        machine.check("sh", "-c", mending)
        cluster.eventually("all is well again", lambda: not problems(cluster), seconds=120)


def test_all_that_matters_is_in_one_table(well: LabCluster) -> None:
    done = well.operator.inv("cluster.status")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "NODE", "ROLE", "KUBELET", "KERNEL", "GENERATION", "READY", "LEASE", "TUNNEL", "DEPLOYED",
    ]  # fmt: skip
    kernel = well.machine("node2").check("uname", "-r").strip()
    assert lines[2].split()[:4] == ["node2", "worker", version(well), kernel]
    begins = [line.split("  ")[0] for line in lines[3:]]
    assert begins == ["API server", "etcd", "certificates", "last backup"]
    assert f"{version(well)}, ready" in lines[3]
    assert "alarms: none" in lines[4]
    assert all(f"{name} 36" in lines[5] for name in ("apiserver", "kubelet-client", "kubelet_node1"))
    assert "0 min old" in lines[6]


def test_report_shows_what_runs(well: LabCluster, tmp_path: Path) -> None:
    done = well.operator.inv("cluster.report", "--json", "--out", str(tmp_path / "report.html"))
    found = json.loads(done.stdout)
    assert (done.returncode, found["api"]) == (0, version(well))
    assert [each["subject"] for each in found["findings"] if each["severity"] == "problem"] == []
    assert {link["state"] for link in found["links"]} == {"ok"}
    assert "default kubernetes" in [f"{each['namespace']} {each['name']}" for each in found["services"]]
    for node in found["nodes"]:
        assert node["answers"] and node["pods"] is not None
        assert 0 < node["usage"]["memory_free"] < node["usage"]["memory"]
    clients = {client for each in found["credentials"] for client in each["clients"]}
    assert {"kubelet@node1", "kubelet@node2"} <= clients
    assert "deployed" in {each["entry"]["outcome"] for each in found["deploys"]}
    page = (tmp_path / "report.html").read_text()
    assert all(node["name"] in page for node in found["nodes"])


def test_without_the_api_server_the_rest_is_reported(well: LabCluster) -> None:
    runs = version(well)
    with broken(well, "node1", "systemctl stop kube-apiserver", "systemctl start kube-apiserver"):
        found, lines = state(well)
    assert lines == ["the API server does not answer", "node1: services: do not run: kube-apiserver"]
    assert [(row["ready"], row["kubelet"], row["tunnel"]) for row in found["nodes"]] == [("?", runs, "1 of 1")] * 2
    assert found["etcd"]["version"].startswith("3.6.")


def test_an_etcd_that_hangs_makes_no_empty_cluster(well: LabCluster) -> None:
    """For a second the API server repeats what its last question to etcd gave (k8s.io/apiserver, newETCD3Check)."""

    def noticed() -> tuple[dict[str, Any], list[str]] | None:
        found, lines = state(well)
        return (found, lines) if "etcd" in found["not_ready"] else None

    with broken(well, "node1", "systemctl kill -s STOP etcd", "systemctl kill -s CONT etcd"):
        found, lines = well.eventually("the API server has noticed", noticed)
    assert (found["etcd"], [row["ready"] for row in found["nodes"]]) == (None, ["?", "?"])
    assert any("etcd does not answer" in line for line in lines)
    assert not any("is missing" in line for line in lines)


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_machine_that_can_not_be_reached_is_one_row(node: str, well: LabCluster) -> None:
    with broken(well, node, "systemctl stop sshd", "systemctl start sshd"):
        found, lines = state(well)
    other = "node1" if node == "node2" else "node2"
    seen = rows(found)
    assert (seen[node]["kernel"], seen[node]["tunnel"], seen[node]["deployed"]) == ("?", "?", "?")
    assert (seen[other]["tunnel"], seen[other]["drift"]) == ("1 of 1", "")
    assert sum(line.startswith(f"{node}: ") for line in lines) == 1
    assert not any(line.startswith(f"{other}: ") for line in lines)
    assert found["api"] == (version(well) if node == "node2" else "")


def test_a_silent_kubelet_is_reported_before_it_is_NotReady(well: LabCluster) -> None:
    with broken(well, "node2", "systemctl stop kubelet", "systemctl start kubelet"):
        assert problems(well)[-1:] == ["node2: services: do not run: kubelet"]
        upgrade, failed = judged(well)
        assert failed == ["version skew"]
        assert upgrade["version skew"] == "kubelet on node2.k8s.internal does not run"
        well.eventually("an old lease", lambda: any("its lease was renewed" in line for line in problems(well)))


def test_who_has_cordoned_a_node_makes_the_difference(well: LabCluster) -> None:
    node = "node2.k8s.internal"
    well.kubectl("cordon", node)
    try:
        found, lines = state(well)
        assert (rows(found)["node2"]["cordoned"], lines) == (True, [])
        assert "Ready, cordoned" in well.operator.done("cluster.status")
        well.kubectl("annotate", "node", node, "smallkube/drained-for=deploy")
        assert "inv nodes.uncordon --node node2" in problems(well)[0]
    finally:
        well.operator.done("nodes.uncordon", "--node", "node2")
    assert problems(well) == []


def test_what_was_not_deployed_is_drift(well: LabCluster) -> None:
    with well.operator.marked("node2", "later"):
        found, lines = state(well)
    assert all("the workspace has changed" in row["drift"] for row in found["nodes"])
    assert len(lines) == 2


def judged(cluster: LabCluster) -> tuple[dict[str, str], list[str]]:
    """What cluster.upgrade-check finds, by check; and which forbid an upgrade."""
    done = cluster.operator.inv("cluster.upgrade-check", "--json")
    findings = json.loads(done.stdout)["checks"]
    failed = [each["check"] for each in findings if each["result"] == "failed"]
    assert done.returncode == bool(failed), done.stderr
    return {each["check"]: each["detail"] for each in findings}, failed


@contextmanager
def wanted(cluster: LabCluster, kubernetes: str) -> Iterator[None]:
    """An inventory that asks for another minor version."""
    file = cluster.operator.workspace.inventory_file
    text = file.read_text()
    named = f'kubernetes: "{kubernetes}"\n  kubernetes_nixpkgs: nixos-unstable'
    file.write_text(text.replace(f'kubernetes: "{MINOR}"', named))
    try:
        yield
    finally:
        file.write_text(text)


@pytest.mark.parametrize(("step", "refused"), [(0, []), (1, []), (-1, ["minor step"])])
def test_a_healthy_cluster_upgrades_one_minor(step: int, refused: list[str], well: LabCluster) -> None:
    runs = version(well)
    with wanted(well, f"1.{int(runs.split('.')[1]) + step}"):
        found, failed = judged(well)
    assert failed == refused
    assert runs in found["minor step"]


def test_deprecated_apis_that_were_asked_for_are_named(well: LabCluster) -> None:
    well.kubectl("get", "endpoints")
    done = well.operator.done("cluster.upgrade-check")
    assert "v1/endpoints" in done


def test_an_upgrade_waits_for_an_api_server(well: LabCluster) -> None:
    with broken(well, "node1", "systemctl stop kube-apiserver", "systemctl start kube-apiserver"):
        found, failed = judged(well)
    assert failed == ["API server", "minor step", "version skew", "nodes", "disruption budgets"]
    assert "no alarm" in found["etcd"]


def token(config: dict[str, Any]) -> str:
    return str(config["users"][0]["user"]["token"])


@pytest.fixture
def default(well: LabCluster) -> Iterator[Path]:
    """Where a kubeconfig is written by default; it holds root's token, which other tests search the workspace for."""
    file = well.operator.workspace.state_dir / "kubeconfig"
    yield file
    file.unlink()


def test_a_kubeconfig_is_for_its_owner_alone(well: LabCluster, default: Path, tmp_path: Path) -> None:
    done = well.operator.inv("cluster.kubeconfig")
    assert done.stdout == f"{default}\n"
    config = json.loads(default.read_text())
    assert default.stat().st_mode & 0o7777 == 0o600
    assert token(config) not in done.stdout + done.stderr
    other = tmp_path / "config"
    other.write_text("apiVersion: v1\nkind: Config\n")
    assert well.operator.inv("cluster.kubeconfig", "--out", str(other)).returncode == 2
    assert other.read_text() == "apiVersion: v1\nkind: Config\n"
    well.operator.done("cluster.kubeconfig", "--out", str(other), "--force")
    assert (other.stat().st_mode & 0o7777, other.read_text()) == (0o600, default.read_text())
    link = tmp_path / "link"
    link.symlink_to(other)
    for strange in (link, tmp_path):
        assert well.operator.inv("cluster.kubeconfig", "--out", str(strange), "--force").returncode == 2


@contextmanager
def forwarded(cluster: LabCluster, folder: Path) -> Iterator[int]:
    """A port of this machine that ends at the API server, through SSH to the primary."""
    machine, ssh = cluster.machine("node1"), cluster.operator.node("node1").ssh
    known = folder / "known"
    known.write_text(f"[{ssh.host}]:{ssh.port} {machine.host_key}\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    key = cluster.operator.workspace.state_dir / "ssh_key"
    options = [
        "-F",
        "none",
        "-o",
        f"UserKnownHostsFile={known}",
        "-o",
        "BatchMode=yes",
        "-o",
        "ExitOnForwardFailure=yes",
    ]
    way = ["-L", f"127.0.0.1:{port}:api.k8s.internal:6443", "-p", str(ssh.port), f"root@{ssh.host}"]
    process = subprocess.Popen(["ssh", *options, "-i", str(key), "-N", *way], stdin=subprocess.DEVNULL)
    try:
        cluster.eventually(
            "the way", lambda: process.poll() is None and not socket.socket().connect_ex(("127.0.0.1", port))
        )
        yield port
    finally:
        process.terminate()
        process.wait()


def test_an_administrator_comes_in_from_here(well: LabCluster, programs: Path, tmp_path: Path) -> None:
    file = tmp_path / "config"
    argv = [str(programs / "opt/smallkube-lab/kubernetes/bin/kubectl"), "--kubeconfig", str(file)]
    with forwarded(well, tmp_path) as port:
        well.operator.done("cluster.kubeconfig", "--via", f"localhost:{port}", "--out", str(file))
        who = subprocess.run([*argv, "auth", "whoami", "-o", "json"], capture_output=True, text=True, timeout=30)
        assert "system:masters" in json.loads(who.stdout)["status"]["userInfo"]["groups"], who.stderr
        config = json.loads(file.read_text())
        config["clusters"][0]["cluster"]["tls-server-name"] = "another.example.com"
        file.write_text(json.dumps(config))
        refused = subprocess.run([*argv, "get", "nodes"], capture_output=True, text=True, timeout=30)
    assert refused.returncode != 0
    assert "x509: certificate is valid for" in refused.stderr
