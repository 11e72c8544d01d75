"""A cluster whose nodes identify themselves by tokens, as the previous version deployed it, moves over to certificates:
nobody is refused at any moment, and the tokens are accepted until every node was seen with its certificates.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cluster import Lab
from lab.places import Places
from tests import previous
from tests.cluster.conftest import LabCluster
from tests.cluster.load import Load, Traffic, as_pod, by_kubeconfig, by_token
from tests.cluster.test_tokens import answer
from tests.lab.operating import Operator

NAMESPACE = "test-moving-over"
NODES = ("node1", "node2")


@pytest.fixture(scope="module")
def tokens(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCluster]:
    """Of two nodes with tokens."""
    old = previous.extracted(tmp_path_factory.mktemp("previous"), previous.TOKENS)
    places = Places(Places.find(os.environ).cache, tmp_path_factory.mktemp("clusters"))
    lab = Lab(places, f"moving-{os.getpid()}")
    try:
        place = lab.up(len(NODES), None, lambda _text: None, lambda _node, _text: None, programs)
        for words in (("keys.scan", "--yes"), ("keys.generate",), ("nix.render",), ("deploy",)):
            old.done(place, *words)
        cluster = LabCluster(Operator(lab, place))
        cluster.eventually("every node Ready", lambda: [*cluster.ready().values()] == [True, True])
        yield cluster
    finally:
        lab.down()


def clients(cluster: LabCluster) -> set[str]:
    """How the programs of the nodes identify themselves."""
    rows = json.loads(cluster.operator.done("tokens.status", "--json"))["certificates"]
    return {word for row in rows for word in row["clients"].values()}


def test_nodes_move_from_tokens_to_certificates(tokens: LabCluster) -> None:
    operator, keys = tokens.operator, tokens.operator.workspace.keys_dir
    held = {node: operator.done("keys.show", f"kube_token_{node}").strip() for node in NODES}
    operator.done("keys.generate")
    said = operator.inv("keys.prune", "--yes")
    assert (said.returncode, "kubelet on node2" in said.stderr) == (1, True), said.stderr
    with tokens.namespace(NAMESPACE):
        going = Traffic(tokens, NAMESPACE)
        going.begin()
        asking = {
            "root": by_kubeconfig("node1", "/run/kubeconfig-root"),
            "pod": as_pod(tokens, NAMESPACE, "client"),
            **{node: by_token(node, token) for node, token in held.items()},
        }
        with Load(tokens).running(asking) as load:
            operator.done("nix.render")
            operator.done("deploy", "--no-drain", "--node", "node1")
            assert clients(tokens) == {"current", "token"}
            said = operator.inv("keys.prune", "--yes")
            assert said.returncode == 1 and "kubelet on node2" in said.stderr and "node1" not in said.stderr
            operator.done("deploy", "--no-drain")
        load.judge(restarts=1)
        going.judge()
    assert clients(tokens) == {"current"}
    tokens.eventually("all Ready", lambda: all(tokens.ready().values()))
    assert [answer(tokens, token) for token in held.values()] == ["accepted"] * 2
    for node in NODES:
        assert tokens.machine(node).execute(["test", "-e", "/run/kubeconfig-node"]).returncode == 1
    operator.done("keys.prune", "--yes")
    assert list(keys.glob("kube_token_node*")) == []
    operator.done("nix.render")
    operator.done("deploy")
    assert [answer(tokens, token) for token in held.values()] == ["refused"] * 2
    tokens.eventually("all Ready", lambda: all(tokens.ready().values()))
    assert "node-tokens" not in tokens.kubectl("get", "clusterrolebindings", "--output=name")
    operator.done("keys.check")
