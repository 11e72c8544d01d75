"""What people may do: the RBAC bindings of each, made and removed by kubectl on the primary.

A person's role is bound by one RoleBinding or ClusterRoleBinding, whose labels say that it is ours. No other binding is
touched. Its name has the role: a binding's roleRef can't be changed
(kubernetes.io/docs/reference/access-authn-authz/rbac, "RoleBinding and ClusterRoleBinding").
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from smallkube.core.errors import MALFORMED, SmallkubeError
from smallkube.kube.members import APPLY, kubectl
from smallkube.remote.host import Command, Host
from smallkube.secrets.people import Person

_KINDS = "clusterrolebindings,rolebindings"
_GROUP = "rbac.authorization.k8s.io"

Binding = Mapping[str, Any]
"""A RoleBinding or ClusterRoleBinding (rbac.authorization.k8s.io/v1) in JSON."""


def labels(name: str) -> dict[str, str]:
    """Those of all bindings of this person."""
    return {"app.kubernetes.io/managed-by": "smallkube", "smallkube/user": name}


def wanted(person: Person) -> dict[str, Any] | None:
    """The binding that the person's role needs; None without a role."""
    if not person.role:
        return None
    metadata: dict[str, Any] = {"name": f"smallkube:user:{person.name}:{person.role}", "labels": labels(person.name)}
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "RoleBinding" if person.namespace else "ClusterRoleBinding",
        "metadata": metadata | ({"namespace": person.namespace} if person.namespace else {}),
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": person.role},
        "subjects": [{"apiGroup": _GROUP, "kind": "User", "name": person.name}],
    }


def require_namespace(primary: Host, name: str) -> None:
    """Raise UsageError when the cluster has no such namespace, and SmallkubeError when it does not answer."""
    reply = primary.run_checked(kubectl("get", "namespace", name, "--ignore-not-found", "--output=name"))
    if not reply.text.strip():
        raise primary.error(f"the cluster has no namespace {name}", f"kubectl create namespace {name}", usage=True)


def apply(primary: Host, person: Person) -> None:
    """Give the person exactly the binding of their role, then remove every other one of ours. Raises SmallkubeError."""
    binding = wanted(person)
    if binding:
        primary.run_checked(_with_input(kubectl(*APPLY, "--field-manager=smallkube"), binding))
    _delete(primary, [each for each in _found(primary, person.name) if not binding or _place(each) != _place(binding)])


def remove(primary: Host, name: str) -> None:
    """Remove every binding of ours of this person. Raises SmallkubeError."""
    _delete(primary, _found(primary, name))


def _found(primary: Host, name: str) -> list[Binding]:
    selector = ",".join(f"{key}={value}" for key, value in labels(name).items())
    words = ("get", _KINDS, "--all-namespaces", f"--selector={selector}", "--output=json")
    text = primary.run_checked(kubectl(*words)).text
    try:
        items: list[Binding] = json.loads(text)["items"]
        if not all(isinstance(word, str) for item in items for word in _place(item)):
            raise TypeError
    except MALFORMED as error:
        raise SmallkubeError("unexpected output from kubectl: not a list of bindings", where=primary.where) from error
    return items


def _place(item: Binding) -> tuple[str, str, str]:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def _delete(primary: Host, items: Sequence[Binding]) -> None:
    if not items:
        return
    objects = [
        {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
        for kind, namespace, name in map(_place, items)
    ]
    document = {"apiVersion": "v1", "kind": "List", "items": objects}
    primary.run_checked(_with_input(kubectl("delete", "--ignore-not-found", "--filename=-"), document))


def _with_input(command: Command, document: Mapping[str, Any]) -> Command:
    return replace(command, stdin=json.dumps(document).encode())
