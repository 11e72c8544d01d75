"""Proves at the real API server what each identity of a node may do, and that a node is added, rotated and revoked
without a restart of it: nobody else's request is lost, and what was taken away is refused at once.
"""

import json
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import LabCluster, MakeCluster, pod
from tests.cluster.identity import Identity
from tests.cluster.load import busy

NAMESPACE = "test-identities"
ROTATE = ("keys.rotate-certificates", "--identities", "--all", "--node", "node2", "--yes", "--json")
REVOKE = ("nodes.remove", "node3", "--revoke", "--yes", "--json")


@pytest.fixture(scope="module")
def three(make_cluster: MakeCluster) -> Iterator[LabCluster]:
    with make_cluster("identities", 3) as made:
        yield made


def start_time(cluster: LabCluster) -> str:
    words = ("show", "--property=ExecMainStartTimestampMonotonic,NRestarts", "kube-apiserver")
    return cluster.machine("node1").check("systemctl", *words)


Calls = dict[str, list[tuple[str, ...]]]
CAN: Calls = {
    "node": [("get", "node", "node2.k8s.internal"), ("get", "services", "-A"), ("get", "csidrivers")],
    "coredns": [("get", kind, "-A") for kind in ("services", "namespaces", "endpointslices")],
    "kube-proxy": [("get", kind, "-A") for kind in ("services", "nodes", "endpointslices", "servicecidrs")],
}
CAN_NOT: Calls = {
    "node": [
        ("get", "secrets", "-A"),
        ("label", "node", "node1.k8s.internal", "a=b"),
        ("label", "node", "node2.k8s.internal", "node-restriction.kubernetes.io/role=primary", "--overwrite"),
        ("get", "endpointslices", "-A"),
        ("create", "namespace", "x"),
    ],
    "coredns": [
        ("get", "pods", "-A"),
        ("get", "secrets", "-A"),
        ("get", "nodes"),
        ("get", "endpoints", "-A"),
        ("label", "node", "node2.k8s.internal", "a=b"),
        ("-n", "default", "get", "service", "kubernetes"),  # list and watch are all that it needs
    ],
    "kube-proxy": [
        ("get", "pods", "-A"),
        ("get", "secrets", "-A"),
        ("label", "node", "node2.k8s.internal", "a=b"),
        ("create", "namespace", "x"),
    ],
}


@pytest.mark.parametrize("word", CAN)
def test_each_identity_has_the_rights_it_needs_and_no_more(word: str, three: LabCluster) -> None:
    identity = Identity.of(three, word, "node2")
    for words in CAN[word]:
        said = identity.kubectl(three, *words)
        assert "orbidden" not in said and "rror" not in said, (words, said)
    for words in CAN_NOT[word]:
        assert "orbidden" in identity.kubectl(three, *words), words


def test_a_request_names_its_credential_in_the_audit_log(three: LabCluster) -> None:
    log = three.machine("node1").check("sh", "-c", "tail -n 2000 /var/log/kube-apiserver/audit.log")
    lines = [json.loads(line) for line in log.splitlines() if '"system:node:node2.k8s.internal"' in line]
    assert all(line["user"]["extra"]["authentication.kubernetes.io/credential-id"] for line in lines)
    assert lines


def test_a_rotated_identity_costs_nobody_a_request(three: LabCluster) -> None:
    before, previous = start_time(three), [Identity.of(three, word, "node2") for word in CAN]
    with busy(three, NAMESPACE, left_out=("node2",)) as load:
        done = json.loads(three.operator.done(*ROTATE))
    assert done["outage"]["restarts"] == 0
    load.judge(restarts=0)
    assert start_time(three) == before
    assert [identity.answer(three) for identity in previous] == ["401"] * 3
    assert [Identity.of(three, word, "node2").answer(three) for word in CAN] == ["200"] * 3
    three.eventually("all Ready", lambda: all(three.ready().values()))


WATCH = """\
set -- "$1" /run/credentials/kube-proxy.service/kube-proxy_node3.key /nix/store/*-kube-proxy_node3.crt
curl --silent --insecure --no-buffer --key "$2" --cert "$3" \\
  "https://$1:6443/api/v1/services?watch=true&timeoutSeconds=3000" >/run/watch-"$1" 2>&1 </dev/null &
"""
"""Who was authenticated goes on watching, unless the connection is ended."""


def watched(cluster: LabCluster) -> str:
    return cluster.machine("node3").check("sh", "-c", "cat /run/watch-*")


def test_a_revoked_node_is_refused_and_nobody_else(three: LabCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Also while another worker can't be reached, which the same command completes once it can."""
    before, stolen = start_time(three), [Identity.of(three, word, "node3") for word in CAN]
    addresses = ("[fd88:1::1]", three.operator.node("node1").peer_ip)
    for address in addresses:
        three.machine("node3").check("bash", "-c", WATCH, "watch", address)
    three.eventually("both watch", lambda: watched(three).count('"name":"kubernetes"') == len(addresses))
    three.machine("node2").check("systemctl", "stop", "sshd")
    with busy(three, NAMESPACE) as load:
        process = three.operator.start(*REVOKE)
        assert process.stderr
        next(line for line in process.stderr if line.startswith("revoke: accept its certificates no more"))
        began = time.monotonic()
        three.eventually("all refused", lambda: {each.answer(three) for each in stolen} == {"401"})
        refused = time.monotonic() - began
        done = three.operator.end(process)
        assert (done.returncode, "still be accepted: node2" in done.stderr) == (1, True), done.stderr
        three.machine("node2").check("systemctl", "start", "sshd")
        done = three.operator.inv(*REVOKE)
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        sys.stdout.write(f"\nrefused {refused:.1f} s after the step began\n")
    assert json.loads(done.stdout)["outage"]["restarts"] == 0
    load.judge(restarts=0)
    assert start_time(three) == before
    three.kubectl("create", "service", "clusterip", "after", "--tcp=80")
    assert '"name":"after"' not in watched(three)
    three.operator.done("keys.check")


def test_a_node_is_added_and_nobody_else_notices(three: LabCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The API server reads the certificate of its kubelet in five minutes at most (from 1.36 on)."""
    inventory, other = three.operator.workspace.inventory_file, three.operator.node("node2")
    host, peer = (f"{address.rpartition('.')[0]}.3" for address in (other.ssh.host, other.peer_ip))
    entry = f"  node3:\n    peer_ip: {peer}\n    ssh: {{host: {host}, port: {other.ssh.port}}}\n"
    inventory.write_text(inventory.read_text() + entry)
    for step in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",)):
        three.operator.done(*step)
    before = start_time(three)
    with busy(three, NAMESPACE) as load:
        done = three.operator.inv("deploy")
    assert done.returncode == 0, done.stderr
    assert "the API server did not restart" in done.stderr
    load.judge(restarts=0)
    assert start_time(three) == before
    three.eventually("node3 is Ready", lambda: three.ready().get("node3.k8s.internal"))
    assert [Identity.of(three, word, "node3").answer(three) for word in CAN] == ["200"] * 3
    three.apply(pod("new", "node3", "sh", "-c", "echo here; exec sleep 1000"))
    three.kubectl("wait", "--for=condition=Ready", "pod/new", "--timeout=60s", seconds=70)
    began = time.monotonic()
    # exec alone never makes the API server read the certificates again: kube-node-roles does.
    three.eventually("exec", lambda: three.ask("exec", "new", "--", "true").returncode == 0, 330)
    with capsys.disabled():
        sys.stdout.write(f"\nexec works {time.monotonic() - began:.0f} s after the deploy\n")
    assert three.kubectl("logs", "new") == "here\n"
    assert start_time(three) == before
