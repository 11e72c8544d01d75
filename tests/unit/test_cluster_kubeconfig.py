"""Proves what a kubeconfig says, which ways to the API server there are, and which file may be replaced by one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallkube.core.errors import UsageError
from smallkube.inventory.load import parse
from smallkube.inventory.models import Inventory
from smallkube.kube import kubeconfig
from smallkube.kube.kubeconfig import ApiEndpoint, Credential

TEXT = "cluster: {name: test}\nnodes: {node1: {peer_ip: 192.0.2.1}, node2: {peer_ip: 192.0.2.2}}\n"
NAMES = {"test-kube.example.com", "api.k8s.internal", "fd88:1::1", "10.88.1.1"}


def inventory() -> Inventory:
    return parse(TEXT, Path("inventory.yaml"))


HERE = ApiEndpoint("h", 1)


def rendered(certificate: bytes | None = None, endpoint: ApiEndpoint = HERE, context: str = "test") -> str:
    return kubeconfig.render(inventory(), Credential.by_token("root", b"token\n"), certificate, endpoint, context)


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
    found = json.loads(rendered(b"PEM", endpoint))
    cluster = found["clusters"][0]["cluster"]
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"PEM"
    assert cluster["tls-server-name"] == "api.k8s.internal"
    assert found["users"][0]["user"]["token"] == "token"
    assert "insecure-skip-tls-verify" not in cluster
    assert found["current-context"] == found["contexts"][0]["name"] == "test"


def test_without_a_certificate_the_kubeconfig_says_so() -> None:
    cluster = json.loads(rendered())["clusters"][0]["cluster"]
    assert cluster == {"insecure-skip-tls-verify": True, "server": "https://h:1"}


def test_a_file_of_ours_is_known_by_what_is_in_it() -> None:
    text = rendered()
    assert kubeconfig.is_ours(text, "test", "root")
    assert not kubeconfig.is_ours(text, "another", "root")
    assert not kubeconfig.is_ours(text, "test", "alice")
    merged = json.loads(text)
    merged["clusters"].append({"name": "work", "cluster": {}})
    assert not kubeconfig.is_ours(json.dumps(merged), "test", "root")


@pytest.mark.parametrize("text", ["apiVersion: v1\nkind: Config\n", "{}", "[]", '"x"', '{"clusters": 1}', "\0"])
def test_any_other_file_is_not_ours(text: str) -> None:
    assert not kubeconfig.is_ours(text, "test", "root")


OTHERS = """\
apiVersion: v1
kind: Config
preferences: {}
clusters:
- {name: work, cluster: {server: 'https://work', insecure-skip-tls-verify: true}}
users:
- name: me
  user:
    auth-provider: {name: x, config: {expiry: 2026-01-31T10:00:00Z, number: '0123', word: 'true'}}
contexts:
- {name: work, context: {cluster: work, user: me, namespace: default}}
current-context: work
"""


def merged(text: str, *, force: bool = False, context: str = "test") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(kubeconfig.merge(text, rendered(context=context), force=force, where="f"))
    return found


def test_merging_keeps_all_else() -> None:
    found, before = merged(OTHERS), yaml.safe_load(OTHERS)
    assert found["current-context"] == "work"
    for kind in ("clusters", "contexts"):
        assert (found[kind][0], len(found[kind])) == (before[kind][0], 2)
    config = found["users"][0]["user"]["auth-provider"]["config"]
    assert config == {"expiry": "2026-01-31T10:00:00Z", "number": "0123", "word": "true"}
    assert found["users"][1] == {"name": "test-root", "user": {"token": "token"}}
    assert found["preferences"] == {}


def test_merging_again_replaces_only_its_own_entries() -> None:
    first = yaml.safe_dump(merged(OTHERS))
    assert merged(first) == yaml.safe_load(first)
    second = merged(first, context="another")
    assert [each["name"] for each in second["contexts"]] == ["work", "test", "another"]
    assert [each["name"] for each in second["users"]] == ["me", "test-root"]
    assert merged("")["current-context"] == "test"


def test_a_context_of_another_is_kept_unless_forced() -> None:
    with pytest.raises(UsageError, match="--context another"):
        merged(OTHERS, context="work")
    forced = merged(OTHERS, context="work", force=True)
    assert forced["contexts"] == [{"name": "work", "context": {"cluster": "work", "user": "test-root"}}]


@pytest.mark.parametrize(
    "text",
    ["- 1\n", "text", "kind: Pod\n", "clusters: 1\n", "users: [1]\n", "users: [{}]\n",
     "contexts: [{name: a, context: 1}]\n", "a: [", "\0", "!!python/object/apply:os.system [id]", "apiVersion: v2\n",
     "clusters: [{name: 1}]\n"],
)  # fmt: skip
def test_what_is_no_kubeconfig_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no kubeconfig; nothing was changed"):
        merged(text)


def test_a_certificate_with_its_key_or_the_path_of_it() -> None:
    by_key = Credential.by_certificate("alice", b"CERT", b"KEY")
    by_path = Credential.by_certificate("alice", b"CERT", "alice.key")
    shown = {"client-certificate-data": base64.b64encode(b"CERT").decode()}
    assert by_key.user == {**shown, "client-key-data": base64.b64encode(b"KEY").decode()}
    assert by_path.user == {**shown, "client-key": "alice.key"}
    assert "KEY" not in repr(by_key)
