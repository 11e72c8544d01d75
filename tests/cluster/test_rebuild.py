"""Proves `cluster.rebuild-primary`: the primary's disk is destroyed, another machine takes its place; the cluster is
the same, pods on the workers never stop, their tokens stay valid; killed at each step, the same command ends it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import machine_leaks
from tests.cluster.conftest import LabCluster, MakeCluster, ended, killed_at, pod
from tests.cluster.test_tokens import answer
from tests.conftest import require
from tests.leaks import ON_NEW_PRIMARY
from tests.machine_leaks import WatchedOperator

REBUILD = ("cluster.rebuild-primary", "--yes")
GET = "wget -q -T 2 -O /dev/null http://$WEB_SERVICE_HOST/"
ASK = f"while :; do {GET} && echo ok || echo lost; sleep 0.2; done >/tmp/said"
SERVE = "mkdir /w; echo hello >/w/index.html; exec httpd -f -p 80 -h /w"
LINES = (
    "rebuild: verify lab-",
    "rebuild: trust",
    "rebuild: verify that etcd",
    "rebuild: encrypt",
    "node1: build",
    "rebuild: restore the backup",
    "node1: activate",
    "rebuild: restart kubelet",
    "rebuild: wait until",
)


@pytest.fixture(scope="module")
def busy(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    """Two workers with pods that talk to each other through a Service, and a backup of it."""
    with make_cluster("rebuild", 3) as made:
        made.eventually("account", lambda: not made.ask("get", "sa", "default").returncode)
        port = {"port": 80}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
        made.apply({**service, "spec": {"selector": {"app": "server"}, "ports": [port]}})
        made.apply(pod("server", "node2", "sh", "-c", SERVE), pod("client", "node3", "sh", "-c", ASK))
        made.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s", seconds=70)
        made.eventually("traffic", lambda: said(made)[-3:] == ["ok"] * 3)
        made.operator.done("etcd.backup")
        yield made


def said(cluster: LabCluster) -> list[str]:
    """Each answer that the client got, in order; read on its machine, for which no API server is needed."""
    # A process that was found may be gone by now; the pod's own is not.
    script = "for file in $(find /proc/[0-9]*/root/tmp/said 2>/dev/null); do cat $file 2>/dev/null && break; done"
    return cluster.machine("node3").check("sh", "-c", script).split()


def identities(cluster: LabCluster) -> dict[str, str]:
    items = [*cluster.get("namespaces")["items"], *cluster.get("nodes")["items"], *cluster.get("pods")["items"]]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in items}


def containers(cluster: LabCluster) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for item in cluster.get("pods")["items"]:
        (status,) = item["status"]["containerStatuses"]
        found[item["metadata"]["name"]] = status["containerID"], status["restartCount"]
    return found


def lose(cluster: LabCluster) -> str:
    """Another machine in the place of node1, with nothing on its disk; its host key's fingerprint."""
    lab, machine = cluster.operator.lab, cluster.machine("node1")
    machine.kill()
    machine.create(Path(f"{lab.key}.pub").read_text().strip())
    machine.start(lab.start_layers())
    return machine.check("ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1]


def assert_same(cluster: LabCluster, before: Any, asked: int) -> None:
    assert (identities(cluster), containers(cluster)) == before
    cluster.eventually("traffic goes on", lambda: len(said(cluster)) > asked + 5)
    assert "lost" not in said(cluster)[asked:]
    assert all(cluster.ready().values())


def test_the_primary_is_rebuilt_and_workers_keep_serving(busy: LabCluster, tmp_path: Path) -> None:
    """Under strace, the machines watched: no secret leaks (see test_secret_leaks.py)."""
    require("cluster", machine_leaks.needed(), "strace, with the right to trace, and a C compiler")
    token = busy.inside("default", "client", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token").stdout
    before = identities(busy), containers(busy)
    fingerprint = lose(busy)
    asked = len(said(busy))
    refused = busy.operator.inv(*REBUILD)
    assert (refused.returncode, f"--host-key {fingerprint}" in refused.stderr) == (2, True), refused.stderr
    wrong = busy.operator.inv(*REBUILD, "--host-key", "SHA256:other")
    assert (wrong.returncode, "not SHA256:other" in wrong.stderr) == (2, True), wrong.stderr
    steps = json.loads(busy.operator.done("cluster.rebuild-primary", "--dry-run", "--json"))
    assert any(fingerprint in step for step in steps)
    with WatchedOperator(busy.operator, tmp_path).watching() as watched:
        rebuilt = watched.run(ON_NEW_PRIMARY + fingerprint)
        assert rebuilt.status == 0, rebuilt.stderr.read_text()
        assert watched.leaks(rebuilt) == []
    done = json.loads(rebuilt.stdout.read_text())
    assert (done["backup"].startswith("lab-"), done["unrestarted"]) == (True, {})
    assert_same(busy, before, asked)
    assert answer(busy, token) == "accepted"
    busy.operator.done("keys.check")
    busy.operator.done("deploy", "--no-drain")
    busy.operator.done("deploy.status")
    smoke = busy.operator.inv("cluster.smoke", "--image", "smallkube.lab/busybox:1", "--skip", "egress", "--json")
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr


def test_killed_at_each_step_the_same_command_ends_it(busy: LabCluster) -> None:
    busy.operator.done("etcd.backup")
    before = identities(busy), containers(busy)
    command = (*REBUILD, "--host-key", lose(busy))
    asked = len(said(busy))
    for line in LINES:
        killed_at(busy, line, *command)
    ended(busy, *command)
    assert_same(busy, before, asked)


def test_a_machine_with_data_is_left_alone(busy: LabCluster) -> None:
    machine, before = busy.machine("node1"), identities(busy)
    machine.check("mv", "/var/lib/smallkube/etcd-seeded", "/run/kept")
    done = busy.operator.inv(*REBUILD)
    machine.check("mv", "/run/kept", "/var/lib/smallkube/etcd-seeded")
    assert (done.returncode, "it is not a new machine; inv etcd.restore" in done.stderr) == (2, True), done.stderr
    assert identities(busy) == before
    damaged = next(busy.operator.root.glob("backups/*.db.zst.age"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bad = busy.operator.inv(*REBUILD, "--backup", damaged.name)
    damaged.write_bytes(content)
    assert (bad.returncode, "damaged" in bad.stderr) == (1, True), bad.stderr
