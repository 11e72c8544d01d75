"""What runs in the cluster: its pods and its Services, listed by kubectl on the primary."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from smallkube.core.errors import SmallkubeError, split_lines
from smallkube.kube.members import kubectl
from smallkube.remote.host import Host

_NONE = "<none>"
_LIMIT = 8 << 20
"""Bytes of a list: of more than 40,000 pods."""
_PODS = (
    "NODE:.spec.nodeName,PHASE:.status.phase,"
    'READY:.status.conditions[?(@.type=="Ready")].status,SPACE:.metadata.namespace,NAME:.metadata.name'
)
_SERVICES = (
    "TYPE:.spec.type,ADDRESSES:.spec.clusterIPs[*],PORTS:.spec.ports[*].port,NODE:.spec.ports[*].nodePort,"
    "SPACE:.metadata.namespace,NAME:.metadata.name"
)


@dataclass(frozen=True)
class Pod:
    """``node``: its name in the cluster, "" before it is scheduled. ``phase``, and the condition ``ready``: core/v1."""

    node: str
    phase: str
    ready: bool
    namespace: str
    name: str

    @property
    def bad(self) -> bool:
        """Whether it should serve and does not; a pod that has run to its end is not bad."""
        return self.phase != "Succeeded" and not (self.phase == "Running" and self.ready)


@dataclass(frozen=True)
class Service:
    """``type``: as in core/v1; ``addresses``, ``ports`` and ``node_ports`` in words, separated by commas."""

    type: str
    addresses: str
    ports: str
    node_ports: str
    namespace: str
    name: str


def pods(primary: Host) -> tuple[Pod, ...]:
    """All pods. Raises SmallkubeError."""
    found = _listed(primary, "pods", _PODS)
    return tuple(Pod(node, phase, ready == "True", space, name) for node, phase, ready, space, name in found)


def services(primary: Host) -> tuple[Service, ...]:
    """All Services. Raises SmallkubeError."""
    return tuple(Service(*words) for words in _listed(primary, "services", _SERVICES))


def _listed(primary: Host, kind: str, columns: str) -> Iterator[list[str]]:
    """A list of words for each, as many as there are ``columns``; "" where there is no value.

    Columns: kubernetes.io/docs/reference/kubectl/#custom-columns. None of the values has a blank in it.
    """
    command = kubectl("get", kind, "--all-namespaces", "--no-headers", f"--output=custom-columns={columns}")
    for line in split_lines(primary.run_checked(replace(command, limit=_LIMIT)).text):
        words = ["" if word == _NONE else word for word in line.split()]
        if len(words) != columns.count(":."):
            raise SmallkubeError(f"unexpected output from kubectl get {kind}", where=primary.where)
        yield words
