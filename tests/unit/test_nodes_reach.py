"""Proves that every way in which a pod can use a Secret is found, and that other answers are refused."""

import json
from typing import Any

import pytest

from smallkube.core.errors import SmallkubeError
from smallkube.operations.revoke import secrets_of_pods


def pods(**spec: Any) -> str:
    return json.dumps({"items": [{"metadata": {"namespace": "ns"}, "spec": spec}]})


@pytest.mark.parametrize(
    "spec",
    [
        {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
        {"volumes": [{"name": "v", "projected": {"sources": [{"configMap": {}}, {"secret": {"name": "s"}}]}}]},
        {"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}]},
        {"volumes": [{"name": "v", "rbd": {"secretRef": {"name": "s"}}}]},
        {"imagePullSecrets": [{"name": "s"}]},
        {"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}]}]},
        {"initContainers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]},
        {"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]},
    ],
)
def test_each_kind_of_use(spec: dict[str, Any]) -> None:
    assert secrets_of_pods(pods(**spec)) == ("ns/s",)


def test_nothing_else_is_taken_for_a_secret() -> None:
    volumes = [
        {"name": "a", "configMap": {"name": "c"}},
        {"name": "b", "emptyDir": {}},
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
    ]
    containers = [{"env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {}}}]}]
    assert secrets_of_pods(pods(volumes=volumes, containers=containers)) == ()
    assert secrets_of_pods('{"items": []}') == ()


@pytest.mark.parametrize("text", ["", "[]", '{"items": [{}]}', '{"items": [{"metadata": {}, "spec": {}}, 1]}'])
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(SmallkubeError, match="not a PodList"):
        secrets_of_pods(text)
