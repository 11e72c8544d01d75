"""What a run makes in the cluster, all of it in one namespace. Pure."""

from collections.abc import Sequence
from typing import Any

from smallkube.smoke.context import Options, Pod

LABEL = "app.kubernetes.io/managed-by"
MARK = "smallkube-smoke"
"""By this label leftovers of earlier runs are found."""
PORT = 8080
SERVE = 'mkdir -p /tmp/www; echo "$NODE" >/tmp/www/index.html; echo serving; exec httpd -f -p "[::]:8080" -h /tmp/www'


def namespace(name: str) -> dict[str, Any]:
    """The namespace; privileged pods are not needed in it."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL: MARK}}}


def daemon_set(space: str, options: Options) -> dict[str, Any]:
    """A pod on every node, whatever its taints, that serves its node's name."""
    container = {
        "name": "probe",
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": ["sh", "-c", SERVE],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
    }
    pod = {
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "probe", "namespace": space},
        "spec": {
            "selector": {"matchLabels": {"app": "probe"}},
            "template": {"metadata": {"labels": {"app": "probe"}}, "spec": pod},
        },
    }


def services(space: str, pods: Sequence[Pod]) -> list[dict[str, Any]]:
    """One of all pods with a cluster IP, one with a NodePort, and one for each pod alone (by a label that it gets)."""
    alone = [_service(space, f"probe-{pod.node}", {"smoke-node": pod.node}) for pod in pods]
    both = [_service(space, "probe", {"app": "probe"}), _service(space, "probe-port", {"app": "probe"}, "NodePort")]
    return [*both, *alone]


def _service(space: str, name: str, selector: dict[str, str], kind: str = "ClusterIP") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": space},
        "spec": {"type": kind, "selector": selector, "ports": [{"port": 80, "targetPort": PORT}]},
    }


def secret(space: str) -> dict[str, Any]:
    """One whose form in etcd is checked."""
    metadata = {"name": "probe", "namespace": space}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"text": "smoke"}}
