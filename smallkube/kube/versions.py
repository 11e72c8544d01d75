"""Which versions may be combined, and what may follow what.

Pure. A version is ``v1.MINOR.PATCH``; the inventory has ``1.MINOR``.
Source: kubernetes.io/releases/version-skew-policy.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, split_lines

OLDEST = 3
"""Minors that a kubelet or kube-proxy may be behind the API server; neither is ever ahead of it.

That keeps the two of one node within the three minors that they may differ from each other.
"""


@dataclass(frozen=True)
class Deprecated:
    """An API that was requested since the API server's last start; ``removed``: "1.40", or "" as none is named."""

    api: str
    removed: str

    def __str__(self) -> str:
        return f"{self.api} ({f'gone in {self.removed}' if self.removed else 'no release is named that removes it'})"


def minor(version: str) -> int:
    """Raises SmallkubeError on what is no version of Kubernetes 1."""
    found = re.match(r"v?1\.(\d{1,4})(?:[.+-]|$)", version)
    if not found:
        raise SmallkubeError(f"{version[:40]!r} is no version of Kubernetes")
    return int(found[1])


def step(target: str, server: str) -> Iterator[str]:
    """Why the API server, of version ``server``, must not become ``target``, one minor after the other."""
    wanted, runs = minor(target), minor(server)
    if wanted < runs:
        yield f"the API server is {server}: no rollback to {target} (restore a backup of {target} instead)"


def skew(target: str, server: str, others: Mapping[str, str]) -> Iterator[str]:
    """What must change before the API server becomes ``target``; ``others``: what it is called → its version."""
    wanted, runs = minor(target), minor(server)
    for name, version in others.items():
        try:
            found = minor(version)
        except SmallkubeError as error:
            yield f"{name}: {error.message}"
            continue
        if found > runs:
            yield f"{name} has {version}, newer than the API server ({server}): the primary comes first"
        elif wanted - found > OLDEST:
            yield f"{name} has {version}, more than {OLDEST} minors behind {target}"


def deprecated(metrics: str) -> tuple[Deprecated, ...]:
    """APIs asked for though deprecated, from the API server's /metrics.

    Metric: apiserver_requested_deprecated_apis (kubernetes.io/docs/reference/instrumenting/metrics).
    """
    found = set()
    for line in split_lines(metrics):
        if line.startswith("apiserver_requested_deprecated_apis{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            parts = (labels.get(name) for name in ("group", "version", "resource", "subresource"))
            removed = re.fullmatch(r"1\.\d{1,4}", labels.get("removed_release", ""))
            found.add(Deprecated("/".join(part for part in parts if part), removed[0] if removed else ""))
    return tuple(sorted(found, key=lambda each: each.api))
