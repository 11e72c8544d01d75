"""Proves which PodDisruptionBudgets are named as keeping nodes from being drained, and that no answer is trusted."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Node
from smallkube.kube.disruptions import blocking
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result

HOSTS = ("node1.k8s.internal", "node2.k8s.internal")
SELECTOR = {
    "matchLabels": {"app": "web"},
    "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "x.io/old", "operator": "DoesNotExist"},
        {"key": "x", "operator": "NotIn", "values": ["c"]},
        {"key": "y", "operator": "Exists"},
    ],
}


def budget(allowed: int | None = 0, selector: object = SELECTOR, name: str = "web") -> dict[str, Any]:
    status = {} if allowed is None else {"disruptionsAllowed": allowed}
    return {"metadata": {"namespace": "shop", "name": name}, "spec": {"selector": selector}, "status": status}


def pod(node: str | None = HOSTS[1], owner: str = "ReplicaSet", phase: str = "Running") -> dict[str, Any]:
    spec = {"nodeName": node} if node else {}
    return {"metadata": {"ownerReferences": [{"kind": owner}]}, "spec": spec, "status": {"phase": phase}}


def found(budgets: object, pods: object) -> tuple[tuple[str, ...], list[str]]:
    """What blocks, and the selectors that were asked with."""
    selectors: list[str] = []

    def answer(command: Command) -> Result:
        words = command.argv
        if "poddisruptionbudgets" in words:
            return reply(json.dumps({"items": budgets}))
        assert "--namespace=shop" in words
        selectors.extend(word.removeprefix("--selector=") for word in words if word.startswith("--selector="))
        return reply(json.dumps({"items": pods}))

    host = FakeHost(Node(name="node1", index=1, peer_ip="192.0.2.1"), answer)
    return blocking(host, HOSTS), selectors


@pytest.mark.parametrize("allowed", [0, None])
def test_a_budget_that_allows_no_eviction_is_named(allowed: int | None) -> None:
    words = "app=web,tier in (a,b),!x.io/old,x notin (c),y"
    assert found([budget(allowed)], [pod()]) == (("shop/web",), [words])


def test_an_empty_selector_selects_every_pod() -> None:
    assert found([budget(selector={})], [pod()]) == (("shop/web",), [""])


@pytest.mark.parametrize(
    ("budgets", "pods"),
    [
        ([], [pod()]),
        ([budget(1)], [pod()]),
        ([budget()], []),
        ([budget(selector=None)], [pod()]),
        ([budget()], [pod(None)]),
        ([budget()], [pod("elsewhere")]),
        ([budget()], [pod(owner="DaemonSet"), pod(owner="Node")]),
        ([budget()], [pod(phase="Succeeded"), pod(phase="Failed")]),
    ],
)
def test_what_keeps_no_drain_from_its_end_is_not(budgets: object, pods: object) -> None:
    assert found(budgets, pods)[0] == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["metadata", "spec", "items", "selector"]), inner),
    max_leaves=8,
)


@given(JSON, JSON)
def test_an_answer_of_another_shape_is_one_error(budgets: object, pods: object) -> None:
    for answers in ((budgets, pods), ([budget()], pods), ([budget(selector=budgets)], [pod()])):
        try:
            found(*answers)
        except SmallkubeError as error:
            assert "unexpected output from kubectl" in str(error)


@pytest.mark.parametrize(
    "bad",
    [
        budget(name="web\x1b[31m"),
        budget(name="--all"),
        budget(selector={"matchLabels": {"app": "a;b"}}),
        budget(selector={"matchExpressions": [{"key": "a", "operator": "Like"}]}),
    ],
)
def test_what_is_no_name_or_label_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SmallkubeError, match="unexpected output from kubectl"):
        found([bad], [pod()])
