"""What a node's own credentials let it read in the cluster: the Secrets of the pods that were bound to it. Pure.

The Node authorizer grants exactly these (https://kubernetes.io/docs/reference/access-authn-authz/node/).
"""

import json
from collections.abc import Iterator
from typing import Any

from smallkube.core.errors import SmallkubeError


def secrets_of_pods(text: str) -> tuple[str, ...]:
    """``NAMESPACE/NAME`` of all Secrets that the pods of a PodList in JSON (core/v1) refer to, sorted."""
    try:
        found = {
            f"{pod['metadata']['namespace']}/{name}"
            for pod in json.loads(text)["items"]
            for name in _of_pod(pod["spec"])
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SmallkubeError("kubectl's answer can't be understood: not a PodList") from error
    return tuple(sorted(found))


def _of_pod(spec: dict[str, Any]) -> Iterator[str]:
    for reference in spec.get("imagePullSecrets", ()):
        yield reference["name"]
    for volume in spec.get("volumes", ()):
        yield from _of_volume(volume)
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind, ()):
            yield from _of_container(container)


def _of_volume(volume: dict[str, Any]) -> Iterator[str]:
    if "secret" in volume:
        yield volume["secret"]["secretName"]
    for source in volume.get("projected", {}).get("sources", ()):
        if "secret" in source:
            yield source["secret"]["name"]
    for kind, details in volume.items():
        # CSI and the older storage kinds name theirs in fields of their own.
        if isinstance(details, dict) and kind != "secret":
            for field in ("secretRef", "nodePublishSecretRef"):
                if name := (details.get(field) or {}).get("name"):
                    yield name


def _of_container(container: dict[str, Any]) -> Iterator[str]:
    for source in container.get("envFrom", ()):
        if "secretRef" in source:
            yield source["secretRef"]["name"]
    for variable in container.get("env", ()):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            yield reference["name"]
