"""Which versions may stand beside each other, and what may follow what (kubernetes.io/releases/version-skew-policy).

Pure. A version is ``v1.MINOR.PATCH``; the inventory has ``1.MINOR``.
"""

import re
from collections.abc import Iterator, Mapping

from smallkube.errors import SmallkubeError

OLDEST_KUBELET = 3
"""Minors that a kubelet (and kube-proxy) may be behind the API server; it is never ahead."""


def minor(version: str) -> int:
    """Raises SmallkubeError on what is no version of Kubernetes 1."""
    found = re.match(r"v?1\.(\d+)(?:[.+-]|$)", version)
    if not found:
        raise SmallkubeError(f"{version!r} is no version of Kubernetes")
    return int(found[1])


def faults(target: str, server: str, kubelets: Mapping[str, str]) -> Iterator[str]:
    """Why a deploy that brings the cluster to ``target`` must not begin; ``kubelets``: node → version."""
    wanted, runs = minor(target), minor(server)
    if wanted > runs + 1:
        yield f"the API server is {server}: one minor at a time, 1.{runs + 1} comes first"
    if wanted < runs:
        yield f"the API server is {server}: it can't go back to {target} (restore a backup from before instead)"
    for node, version in kubelets.items():
        behind = wanted - minor(version)
        if behind > OLDEST_KUBELET:
            yield f"{node} has {version}: more than {OLDEST_KUBELET} minors behind {target}"
        if minor(version) > runs:
            yield f"{node} has {version}, newer than the API server ({server})"


def deprecated(metrics: str) -> list[str]:
    """APIs still asked for that a later release removes, from the API server's /metrics.

    Metric: apiserver_requested_deprecated_apis (kubernetes.io/docs/reference/instrumenting/metrics).
    """
    found = set()
    for line in metrics.splitlines():
        if line.startswith("apiserver_requested_deprecated_apis{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            api = "/".join(
                part for part in (labels.get("group"), labels.get("version"), labels.get("resource")) if part
            )
            found.add(f"{api} (gone in {labels.get('removed_release') or 'a later release'})")
    return sorted(found)
