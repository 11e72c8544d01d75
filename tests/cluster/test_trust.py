"""Proves that certificates and the key of service accounts' tokens are replaced while everybody goes on, from wherever
it was killed, and that what they have replaced is worth nothing afterwards.
"""

import json
from pathlib import Path
from typing import Any

from tests.cluster.conftest import LabCluster, ended, killed_at
from tests.cluster.load import busy

CERTIFICATES = ("keys.rotate-certificates", "--yes", "--all")
ISSUER = ("keys.rotate-issuer", "--yes", "--overlap", "0")
FILES = {
    *("apiserver.crt", "front-proxy-client.crt", "kubelet-client.crt"),
    *(f"{word}_{node}.crt" for word in ("kubelet", "node", "coredns", "kube-proxy") for node in ("node1", "node2")),
}
NODE2 = {file for file in FILES if "node2" in file}
NAMESPACE = "test-trust"


def certificates(cluster: LabCluster) -> dict[str, bytes]:
    keys: Path = cluster.operator.workspace.keys_dir
    return {path.name: path.read_bytes() for path in keys.glob("*.crt")}


def beside(cluster: LabCluster) -> list[str]:
    """What a rotation that has not ended leaves in keys/."""
    return [path.name for word in (".new", ".old") for path in cluster.operator.workspace.keys_dir.glob(f"*{word}.*")]


def healthy(cluster: LabCluster) -> None:
    cluster.eventually("all Ready", lambda: all(cluster.ready().values()))
    assert json.loads(cluster.operator.done("keys.check", "--json"))["problems"] == []


def shown(cluster: LabCluster, address: str, pem: bytes) -> bool:
    """Whether a client that trusts ``pem`` alone gets an answer from ``address``."""
    argv = [
        "curl",
        "--silent",
        "--max-time",
        "5",
        "--output",
        "/dev/null",
        "--cacert",
        "/dev/stdin",
        f"https://{address}/",
    ]
    return cluster.machine("node1").execute(argv, stdin=pem.decode()).returncode == 0


def test_no_client_is_refused_while_all_certificates_change(cluster: LabCluster) -> None:
    before = certificates(cluster)
    with busy(cluster, NAMESPACE) as load:
        done: dict[str, Any] = json.loads(cluster.operator.done(*CERTIFICATES, "--json"))
        cluster.kubectl("-n", NAMESPACE, "exec", "client", "--", "true")
    assert {row["file"] for row in done["issued"]} == FILES == certificates(cluster).keys()
    assert done["outage"]["restarts"] == 3
    load.judge(restarts=3)
    after = certificates(cluster)
    assert beside(cluster) == []
    servers = {"api.k8s.internal:6443": "apiserver.crt", "node2.k8s.internal:10250": "kubelet_node2.crt"}
    for address, file in servers.items():
        assert (shown(cluster, address, before[file]), shown(cluster, address, after[file])) == (False, True)
    trusted = cluster.get("-n", "default", "configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    assert trusted.encode() == after["apiserver.crt"]
    healthy(cluster)


def test_killed_it_is_ended_by_the_same_command(cluster: LabCluster) -> None:
    before = certificates(cluster)
    killed_at(cluster, "certificates: deploy: they are used", *CERTIFICATES, "--node", "node2")
    ended(cluster, *CERTIFICATES, "--node", "node2")
    after = certificates(cluster)
    assert {file for file in before if before[file] != after.get(file)} == NODE2
    assert beside(cluster) == []
    healthy(cluster)


def test_aborted_the_previous_ones_stay(cluster: LabCluster) -> None:
    before = certificates(cluster)
    killed_at(cluster, "certificates: verify that", *CERTIFICATES)
    ended(cluster, "keys.rotate-certificates", "--abort", "--yes")
    assert (certificates(cluster), beside(cluster)) == (before, [])
    healthy(cluster)


def test_a_pause_leaves_both_trusted_and_the_old_in_use(cluster: LabCluster) -> None:
    before = certificates(cluster)
    cluster.operator.done(*CERTIFICATES, "--node", "node1", "--pause")
    paused = certificates(cluster)
    assert paused.items() > before.items()
    trusted = cluster.get("-n", "default", "configmap", "kube-root-ca.crt")["data"]["ca.crt"].encode()
    assert trusted == paused["apiserver.crt"] + paused["apiserver.new.crt"]
    healthy(cluster)
    cluster.operator.done(*CERTIFICATES)
    assert certificates(cluster) == before | {file: paused[file.replace(".crt", ".new.crt")] for file in FILES - NODE2}
    healthy(cluster)


def account(cluster: LabCluster) -> str:
    return cluster.kubectl("-n", "default", "create", "token", "default").strip()


def status(cluster: LabCluster, token: str) -> str:
    script = (
        "curl --insecure --silent --max-time 5 --output /dev/null --write-out '%{http_code}'"
        ' --header "Authorization: Bearer $(cat)" https://api.k8s.internal:6443/api'
    )
    return cluster.machine("node1").execute(["/bin/sh", "-c", script], stdin=token).stdout


def test_no_pod_is_refused_while_the_issuer_key_changes(cluster: LabCluster) -> None:
    former = account(cluster)
    assert status(cluster, former) == "200"
    with busy(cluster, NAMESPACE) as load:
        done: dict[str, Any] = json.loads(cluster.operator.done(*ISSUER, "--json"))
    assert done["outage"]["restarts"] == 2
    load.judge(restarts=2)
    assert (status(cluster, former), status(cluster, account(cluster))) == ("401", "200")
    assert beside(cluster) == []
    healthy(cluster)


def test_a_token_in_a_secret_holds_it_up(cluster: LabCluster) -> None:
    annotations = {"kubernetes.io/service-account.name": "default"}
    with cluster.namespace(NAMESPACE):
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/service-account-token",
                "metadata": {"name": "robot", "namespace": NAMESPACE, "annotations": annotations},
            }
        )
        get = ("-n", NAMESPACE, "secret", "robot")
        cluster.eventually("its token", lambda: "token" in cluster.get(*get).get("data", {}))
        done = cluster.operator.inv(*ISSUER)
        assert done.returncode == 1
        assert f"Secrets hold tokens of the other key: {NAMESPACE}/robot" in done.stderr
        patch = '[{"op": "remove", "path": "/data/token"}]'
        cluster.kubectl("-n", NAMESPACE, "patch", "secret", "robot", "--type=json", f"--patch={patch}")
        cluster.eventually("a new token", lambda: "token" in cluster.get(*get)["data"])
        cluster.operator.done(*ISSUER)
    assert beside(cluster) == []


def test_a_killed_issuer_rotation_is_resumed(cluster: LabCluster) -> None:
    former = account(cluster)
    killed_at(cluster, "issuer: deploy: only", *ISSUER)
    ended(cluster, *ISSUER)
    assert (status(cluster, former), status(cluster, account(cluster))) == ("401", "200")
    assert beside(cluster) == []
    healthy(cluster)


def test_aborted_the_previous_key_signs_again(cluster: LabCluster) -> None:
    former = account(cluster)
    killed_at(cluster, "issuer: replace the pods'", *ISSUER)
    between = account(cluster)
    ended(cluster, *ISSUER, "--abort")
    assert (status(cluster, former), status(cluster, between)) == ("200", "401")
    assert beside(cluster) == []
    healthy(cluster)
