"""What a node's own credentials let it read in the cluster: the Secrets of the pods that were bound to it. Pure.

The Node authorizer grants exactly these (https://kubernetes.io/docs/reference/access-authn-authz/node/).
"""

import json
from collections.abc import Iterator
from typing import Any

from smallkube.core.errors import SmallkubeError

_REFERENCES = ("imagePullSecrets", "secret", "secretRef", "secretKeyRef", "nodePublishSecretRef")
"""Fields of a PodSpec (core/v1) that name a Secret of the pod's namespace, wherever they are."""


def secrets_of_pods(text: str) -> tuple[str, ...]:
    """``NAMESPACE/NAME`` of all Secrets that the pods of a PodList in JSON (core/v1) refer to, sorted."""
    try:
        pods = json.loads(text)["items"]
        found = {f"{pod['metadata']['namespace']}/{name}" for pod in pods for name in _names("spec", pod["spec"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SmallkubeError("unexpected output from kubectl: not a PodList") from error
    return tuple(sorted(found))


def _names(field: str, value: Any) -> Iterator[str]:
    """The Secrets that ``value`` of the field so called refers to."""
    if isinstance(value, list):
        for each in value:
            yield from _names(field, each)
    elif isinstance(value, dict):
        if field in _REFERENCES and (name := value.get("secretName") or value.get("name")):
            yield name
        for key, each in value.items():
            yield from _names(key, each)
