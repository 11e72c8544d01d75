"""Proves that tokens of a running cluster are replaced without a refused request, from wherever it was killed."""

import json
from typing import Any

from tests.cluster.conftest import LabCluster, ended, killed_at
from tests.cluster.load import busy

NAMESPACE = "test-tokens"
TRY = """\
trap 'rm -f /tmp/t /tmp/k' EXIT
cat >/tmp/t
KUBECONFIG=/tmp/k mkkubeconfig /tmp/t
kubectl --kubeconfig /tmp/k get --raw /api 2>&1 || :
"""


def token(cluster: LabCluster, name: str) -> str:
    return cluster.operator.done("keys.show", name).strip()


def answer(cluster: LabCluster, value: str) -> str:
    said = cluster.machine("node1").check("sh", "-c", TRY, stdin=value)
    return "refused" if "Unauthorized" in said else "accepted" if '"kind":"APIVersions"' in said else said


def old_files(cluster: LabCluster) -> list[str]:
    return [path.name for path in cluster.operator.workspace.keys_dir.glob("*.old.age")]


def test_no_request_is_refused_while_all_tokens_change(cluster: LabCluster) -> None:
    before = {name: token(cluster, f"kube_token_{name}") for name in ("root", "system_kube-scheduler")}
    with busy(cluster, NAMESPACE) as load:
        done: dict[str, Any] = json.loads(cluster.operator.done("tokens.rotate", "--all", "--yes", "--json"))
    assert len(done["rotated"]) == 3 == len(done["refused"])
    assert done["outage"]["restarts"] == 2
    load.judge(restarts=2)
    for name, value in before.items():
        assert answer(cluster, value) == "refused"
        assert answer(cluster, token(cluster, f"kube_token_{name}")) == "accepted"
    assert old_files(cluster) == []
    status = json.loads(cluster.operator.done("tokens.status", "--json"))
    rows = status["tokens"] + status["certificates"]
    assert {word for row in rows for word in row["clients"].values()} == {"current"}
    cluster.eventually("all Ready", lambda: all(cluster.ready().values()))


def test_killed_it_is_ended_by_the_same_command(cluster: LabCluster) -> None:
    before = token(cluster, "kube_token_system_kube-controller-manager")
    killed_at(cluster, "tokens: deploy: only", "tokens.rotate", "--user", "kube-controller-manager", "--yes")
    # What the killed one left on a machine goes back by itself, or is taken over; see deploys.
    ended(cluster, "tokens.rotate", "--user", "kube-controller-manager", "--yes")
    assert old_files(cluster) == []
    assert answer(cluster, before) == "refused"
    assert answer(cluster, token(cluster, "kube_token_system_kube-controller-manager")) == "accepted"
    cluster.eventually("all Ready", lambda: all(cluster.ready().values()))


def test_aborted_every_client_keeps_the_previous_token(cluster: LabCluster) -> None:
    before = token(cluster, "kube_token_system_kube-scheduler")
    killed_at(cluster, "tokens: verify that both", "tokens.rotate", "--user", "kube-scheduler", "--yes")
    between = token(cluster, "kube_token_system_kube-scheduler")
    assert between != before
    cluster.operator.done("tokens.rotate", "--abort", "--yes")
    assert token(cluster, "kube_token_system_kube-scheduler") == before
    assert (answer(cluster, before), answer(cluster, between)) == ("accepted", "refused")
    assert old_files(cluster) == []
