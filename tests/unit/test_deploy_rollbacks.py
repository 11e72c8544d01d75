"""Verifies which rollbacks across a minor of Kubernetes are refused, and what is named instead."""

import json
from functools import partial
from typing import Any

import pytest

from smallkube.core.errors import ErrorGroup
from smallkube.deploy.rollbacks import faults, refuse_skew
from smallkube.inventory.models import Node
from smallkube.remote.fake import FakeHost, reply
from smallkube.remote.host import Command, Result
from tests.unit.fake_cluster import FakeCluster

STAYS = ("1.36", "1.36")
BACK = ("1.36", "1.35")


@pytest.mark.parametrize(
    "minors",
    [
        {"node1": STAYS, "node2": STAYS},
        {"node1": STAYS, "node2": BACK},
        {"node1": BACK, "node2": ("1.35", "1.35")},
        {"node1": BACK},
        {"node2": BACK},
        {"node1": STAYS, "node2": ("1.35", "1.36")},
    ],
)
def test_what_the_skew_policy_allows_goes_on(minors: dict[str, tuple[str, str]]) -> None:
    assert [*faults(minors, "node1")] == []


@pytest.mark.parametrize(
    ("minors", "problem", "hint"),
    [
        ({"node1": BACK, "node2": STAYS}, "older than the kubelets of node2", "inv deploy.rollback --node node2"),
        ({"node1": BACK, "node2": BACK}, "older than the kubelets of node2", "inv deploy.rollback --node node2"),
        ({"node1": ("1.36", "1.34")}, "from 1.36 to 1.34", "one minor at a time"),
        ({"node1": ("1.35", "1.36"), "node2": ("1.35", "1.35")}, "from 1.35 to 1.36", "inv cluster.upgrade"),
        ({"node1": ("1.35", "1.35"), "node2": ("1.35", "1.36")}, "node2: would have Kubernetes 1.36", "inv cluster."),
    ],
)
def test_a_rollback_against_the_policy_is_refused(minors: dict[str, tuple[str, str]], problem: str, hint: str) -> None:
    (found,) = faults(minors, "node1")
    assert problem in str(found)
    assert hint in (found.hint or "")


def machine(minors: dict[str, str], node: Node, command: Command) -> Result:
    """A node whose generation 1 has 1.35 and whose generation 2, which runs, has the minor that ``minors`` names."""
    if command.argv[4] == "generations":
        return reply(json.dumps({"current": "2", "systems": {"1": "/nix/store/a", "2": "/nix/store/b"}}))
    entry: dict[str, Any] = {"time": "t", "operator": "o", "goal": "switch", "outcome": "deployed", "reason": ""}
    history = [
        json.dumps({**entry, "digest": digest, "system": f"/nix/store/{digest}", "generation": number})
        for digest, number in (("a", "1"), ("b", "2"))
    ]
    line = '/nix/rendered/cluster.nix:    kubernetesMinor = "{}";'
    rendered = [f"a{line.format('1.35')}", f"b{line.format(minors[node.name])}"]
    facts = {"system": "/nix/store/b", "history": history, "peers": "", "public_key": "", "wireguard": {}}
    return reply(json.dumps({**facts, "rendered": rendered, "own_keys": []}))


@pytest.mark.parametrize(
    ("minors", "names", "refusal"),
    [
        ({"node1": "1.36", "node2": "1.36"}, ["node1", "node2"], r"^node1: would have 1\.35, older than the kubelets"),
        ({"node1": "1.36", "node2": "1.36"}, ["node1"], r"^node1: .*inv deploy\.rollback --node node2"),
        ({"node1": "1.36", "node2": "1.36"}, ["node2"], ""),
        ({"node1": "1.36", "node2": "1.35"}, ["node1"], ""),
        (
            {"node1": "1.37", "node2": "1.35"},
            ["node1"],
            r"from 1\.37 to 1\.35; roll back one minor at a time",
        ),
        ({"node1": "../..", "node2": "1.35"}, ["node1"], ""),
    ],
)
def test_the_machines_say_what_a_generation_has(
    minors: dict[str, str], names: list[str], refusal: str, cluster: FakeCluster
) -> None:
    nodes = [cluster.inventory.node(name) for name in names]
    refuse = partial(
        refuse_skew, cluster.cluster, nodes, "", lambda node: FakeHost(node, partial(machine, minors, node))
    )
    if refusal:
        with pytest.raises(ErrorGroup, match=refusal) as error:
            refuse()
        assert error.value.exit_status == 2
    else:
        refuse()
