"""Proves which upgrades may begin, what a kubeconfig says, and what is made of a node's state."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smallkube.cluster import kubeconfig, skew, state
from smallkube.errors import SmallkubeError, UsageError
from smallkube.inventory import Inventory, parse

TEXT = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"


def inventory() -> Inventory:
    return parse(TEXT, Path("inventory.yaml"))


@pytest.mark.parametrize(
    ("target", "server", "kubelets", "faults"),
    [
        ("1.34", "v1.34.2", ["v1.34.2"], 0),
        ("1.35", "v1.34.2", ["v1.34.2"], 0),
        ("1.36", "v1.34.2", ["v1.34.2"], 1),
        ("1.33", "v1.34.2", ["v1.34.2"], 1),
        ("1.35", "v1.34.2", ["v1.32.9"], 0),
        ("1.35", "v1.34.2", ["v1.31.0"], 1),
        ("1.34", "v1.34.2", ["v1.35.0"], 1),
        ("1.36", "v1.34.2+k3s1", ["v1.31.0", "v1.37.0-rc.1"], 3),
    ],
)
def test_minors_follow_one_by_one(target: str, server: str, kubelets: list[str], faults: int) -> None:
    found = list(skew.faults(target, server, {f"node{number}": one for number, one in enumerate(kubelets, 1)}))
    assert len(found) == faults, found


@pytest.mark.parametrize("text", ["", "1", "2.3", "v1.x", "latest"])
def test_what_is_no_version_is_an_error(text: str) -> None:
    with pytest.raises(SmallkubeError, match="no version of Kubernetes"):
        skew.minor(text)


def test_deprecated_apis_are_read_from_the_metrics() -> None:
    metric = "apiserver_requested_deprecated_apis"
    lines = (
        f"# TYPE {metric} gauge",
        f'{metric}{{group="",removed_release="",resource="endpoints",subresource="",version="v1"}} 1',
        f'{metric}{{group="apps",removed_release="1.40",resource="things",version="v1beta1"}} 1',
    )
    assert skew.deprecated("\n".join(lines)) == [
        "apps/v1beta1/things (gone in 1.40)",
        "v1/endpoints (gone in a later release)",
    ]


@pytest.mark.parametrize(
    ("via", "url", "name"),
    [
        ("external", "https://test-kube.example.com:6443", ""),
        ("tunnel", "https://[fd88:1::1]:6443", ""),
        ("192.0.2.7", "https://192.0.2.7:6443", "api.k8s.internal"),
        ("localhost:16443", "https://localhost:16443", "api.k8s.internal"),
        ("[2001:db8::7]:444", "https://[2001:db8::7]:444", "api.k8s.internal"),
        ("2001:db8::7", "https://[2001:db8::7]:6443", "api.k8s.internal"),
    ],
)
def test_the_way_to_the_api_server(via: str, url: str, name: str) -> None:
    assert kubeconfig.server(inventory(), via) == (url, name)


@pytest.mark.parametrize("via", ["", ":1", "host:0", "host:x", "host:70000"])
def test_a_way_that_is_none_is_refused(via: str) -> None:
    with pytest.raises(UsageError, match="--via"):
        kubeconfig.server(inventory(), via)


def test_a_kubeconfig_trusts_exactly_the_pinned_certificate() -> None:
    found = json.loads(kubeconfig.render(inventory(), b"token\n", b"PEM", "127.0.0.1:1"))
    cluster = found["clusters"][0]["cluster"]
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"PEM"
    assert cluster["tls-server-name"] == "api.k8s.internal"
    assert found["users"][0]["user"]["token"] == "token"
    assert "insecure-skip-tls-verify" not in cluster


def test_without_a_certificate_the_file_says_that_nothing_is_checked() -> None:
    found = json.loads(kubeconfig.render(inventory(), b"token", None, "external"))
    assert found["clusters"][0]["cluster"]["insecure-skip-tls-verify"] is True


def test_a_node_that_can_not_be_asked_is_shown_with_what_is_known() -> None:
    node = inventory().nodes[1]
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.34.2"}}
    api = state.Api(
        "v1.34.2",
        {"node2.k8s.internal": {"status": ready, "spec": {"unschedulable": True}}},
        {"node2.k8s.internal": datetime.now(UTC)},
    )
    row = state.row(inventory(), node, SmallkubeError("unreachable"), api, "digest")
    assert (row.kubelet, row.ready, row.lease, row.problems) == ("v1.34.2", "cordoned", "0 s", ("unreachable",))
    missing = state.row(inventory(), inventory().nodes[0], SmallkubeError("x"), api, "digest")
    assert missing.ready == "missing"
