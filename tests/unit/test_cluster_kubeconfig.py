"""Proves what a kubeconfig says, which ways to the API server there are, and which file may be replaced by one."""

import base64
import json
from pathlib import Path

import pytest

from smallkube.core.errors import UsageError
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.kube import kubeconfig
from smallkube.kube.kubeconfig import ApiEndpoint

TEXT = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"
NAMES = {"test-kube.example.com", "api.k8s.internal", "fd88:1::1", "10.88.1.1"}


def inventory() -> Inventory:
    return parse(TEXT, Path("inventory.yaml"))


@pytest.mark.parametrize(
    ("via", "url", "name"),
    [
        ("external", "https://test-kube.example.com:6443", ""),
        ("tunnel", "https://[fd88:1::1]:6443", ""),
        ("10.88.1.1", "https://10.88.1.1:6443", ""),
        ("[fd88:0001:0::1]:444", "https://[fd88:0001:0::1]:444", ""),
        ("Test-Kube.example.com:444", "https://Test-Kube.example.com:444", ""),
        ("192.0.2.7", "https://192.0.2.7:6443", "api.k8s.internal"),
        ("localhost:16443", "https://localhost:16443", "api.k8s.internal"),
        ("[2001:db8::7]:444", "https://[2001:db8::7]:444", "api.k8s.internal"),
        ("[2001:db8::7]", "https://[2001:db8::7]:6443", "api.k8s.internal"),
        ("2001:db8::7", "https://[2001:db8::7]:6443", "api.k8s.internal"),
    ],
)
def test_the_way_to_the_api_server(via: str, url: str, name: str) -> None:
    endpoint = kubeconfig.endpoint(inventory(), via, NAMES)
    assert (endpoint.url, endpoint.name) == (url, name)


@pytest.mark.parametrize(
    "via",
    ["", ":1", "host:0", "host:x", "host:70000", "https://host", "me@host", "a b", "[host]:1", "host/", "[::1"],
)
def test_a_way_that_is_none_is_refused(via: str) -> None:
    with pytest.raises(UsageError, match="--via"):
        kubeconfig.endpoint(inventory(), via, NAMES)


def test_an_old_certificate_is_still_met_under_its_own_name() -> None:
    assert (
        kubeconfig.endpoint(inventory(), "external", {"old.example.com", "api.k8s.internal"}).name == "api.k8s.internal"
    )
    with pytest.raises(UsageError, match=r"rotate-certificates"):
        kubeconfig.endpoint(inventory(), "external", {"old.example.com"})


def test_nothing_is_expected_where_nothing_is_checked() -> None:
    assert kubeconfig.endpoint(inventory(), "localhost:1", ()) == ApiEndpoint("localhost", 1)


def test_a_kubeconfig_trusts_exactly_the_pinned_certificate() -> None:
    endpoint = ApiEndpoint("localhost", 1, "api.k8s.internal")
    found = json.loads(kubeconfig.render(inventory(), b"token\n", b"PEM", endpoint))
    cluster = found["clusters"][0]["cluster"]
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"PEM"
    assert cluster["tls-server-name"] == "api.k8s.internal"
    assert found["users"][0]["user"]["token"] == "token"
    assert "insecure-skip-tls-verify" not in cluster
    assert found["current-context"] == found["contexts"][0]["name"] == "test"


def test_without_a_certificate_the_kubeconfig_says_so() -> None:
    cluster = json.loads(kubeconfig.render(inventory(), b"token", None, ApiEndpoint("h", 1)))["clusters"][0]["cluster"]
    assert cluster == {"insecure-skip-tls-verify": True, "server": "https://h:1"}


def test_a_file_of_ours_is_known_by_what_is_in_it() -> None:
    text = kubeconfig.render(inventory(), b"token", None, ApiEndpoint("h", 1))
    assert kubeconfig.is_ours(text, "test")
    assert not kubeconfig.is_ours(text, "another")
    merged = json.loads(text)
    merged["clusters"].append({"name": "work", "cluster": {}})
    assert not kubeconfig.is_ours(json.dumps(merged), "test")


@pytest.mark.parametrize("text", ["apiVersion: v1\nkind: Config\n", "{}", "[]", '"x"', '{"clusters": 1}', "\0"])
def test_any_other_file_is_not_ours(text: str) -> None:
    assert not kubeconfig.is_ours(text, "test")
