"""Proves that nodes get the labels and taints of the inventory, and lose those that it has no more."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smallkube.core import process

from .conftest import Build, Describe

pytestmark = pytest.mark.integration

STANDARD = "node-role.kubernetes.io/control-plane:NoSchedule"
KUBECTL = """#!/bin/sh
case "$*" in
  *"get nodes"*) echo node1.k8s.internal node2.k8s.internal ;;
  wait* | *" get "* | *role=*) ;;
  *) echo "$2 $3 $4 $5 $6" >>"$STATE_DIRECTORY/calls" ;;
esac
"""


@pytest.fixture
def calls(build: Build, describe: Describe, tmp_path: Path) -> Callable[..., set[str]]:
    """``calls(node1={…}, node2={…})``: what the primary changes for these fields of the nodes."""
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)

    def run(**nodes: Any) -> set[str]:
        tree = build((1, 2, 3), nodes=nodes)
        scripts = describe(tree)["node1"]["scripts"]
        (script,) = [text for path, text in scripts.items() if path.endswith("-kube-node-roles")]
        text = script.replace("export PATH=", f"PATH={tmp_path}:$PATH\nPATH_ON_NODES=")
        (tmp_path / "calls").write_text("")
        done = process.run(["bash", "-c", text], environment={"STATE_DIRECTORY": str(tmp_path)})
        assert done.ok, done.stderr
        return {line.strip().replace(".k8s.internal", "") for line in (tmp_path / "calls").read_text().splitlines()}

    return run


def test_labels_and_taints_follow_the_inventory(calls: Callable[..., set[str]]) -> None:
    assert calls() == set()
    fields = {"labels": ["disk=ssd", "zone="], "taints": ["gpu=yes:NoExecute"]}
    wanted = {"label --overwrite node node2 disk=ssd", "label --overwrite node node2 zone="}
    wanted.add("taint --overwrite node node2 gpu=yes:NoExecute")
    # node3 has not registered yet.
    assert calls(node2=fields, node3=copy.deepcopy(fields)) == wanted
    fields = {"labels": ["disk=hdd"], "taints": ["gpu:NoSchedule"]}
    assert calls(node2=fields, node1={"taints": []}) == {
        "label --overwrite node node2 disk=hdd",
        "taint --overwrite node node2 gpu:NoSchedule",
        "label node node2 zone-",
        "taint node node2 gpu:NoExecute-",
        *(f"label node node3 {name}-" for name in ("disk", "zone")),
        "taint node node3 gpu:NoExecute-",
        f"taint node node1 {STANDARD}-",
    }


def test_pods_can_run_on_the_primary(build: Build, describe: Describe, calls: Callable[..., set[str]]) -> None:
    # Also where the record is missing: earlier versions kept none.
    assert calls(node1={"taints": []}) == {f"taint node node1 {STANDARD}-"}
    assert calls(node1={"taints": []}) == set()
    assert calls(node1={"taints": [STANDARD]}) == {f"taint --overwrite node node1 {STANDARD}"}
    nodes = describe(
        build((1, 2), nodes={"node1": {"taints": []}, "node2": {"taints": ["a=b:NoExecute", "c:NoSchedule"]}})
    )
    found = []
    for node in nodes.values():
        (text,) = [text for path, text in node["files"].items() if path.endswith("-kubelet.json")]
        found.append(json.loads(text).get("registerWithTaints", []))
    assert found == [[], [{"key": "a", "value": "b", "effect": "NoExecute"}, {"key": "c", "effect": "NoSchedule"}]]
