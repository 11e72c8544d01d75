"""PodDisruptionBudgets that would keep a node from being drained, asked by kubectl on the primary.

Fields: https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/pod-disruption-budget-v1
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from smallkube.core.errors import MALFORMED, SmallkubeError
from smallkube.kube.members import kubectl
from smallkube.remote.host import Host

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}")
_LABEL = re.compile(r"[A-Za-z0-9./_-]{0,317}")
_STAYS = frozenset({"DaemonSet", "Node"})
"""Kinds of owners whose pods a drain leaves: --ignore-daemonsets, and static pods."""
_ENDED = frozenset({"Succeeded", "Failed"})
_OPERATORS = {"In": "{} in ({})", "NotIn": "{} notin ({})", "Exists": "{}", "DoesNotExist": "!{}"}
"""Of matchExpressions → as kubectl takes them (kubernetes.io/docs/concepts/overview/working-with-objects/labels)."""


def blocking(primary: Host, hosts: Collection[str]) -> tuple[str, ...]:
    """NAMESPACE/NAME of each budget that allows no eviction now, and has pods on ``hosts`` that a drain would evict.

    Raises SmallkubeError without an answer, or with one of another shape.
    """
    try:
        budgets = _items(primary, "poddisruptionbudgets", "--all-namespaces")
        exhausted = [each for each in budgets if each.get("status", {}).get("disruptionsAllowed", 0) < 1]
        return tuple(_full_name(each) for each in exhausted if any(_evicted(primary, each, hosts)))
    except MALFORMED as error:
        raise primary.error("unexpected output from kubectl: no list of PodDisruptionBudgets or pods") from error


def _evicted(primary: Host, budget: Mapping[str, Any], hosts: Collection[str]) -> Iterator[bool]:
    """For each pod of the budget, whether a drain of ``hosts`` would evict it and the budget has a say."""
    selector = budget["spec"].get("selector")
    if selector is None:  # selects no pod
        return
    namespace = _full_name(budget).partition("/")[0]
    for pod in _items(primary, "pods", f"--namespace={namespace}", f"--selector={_words(selector)}"):
        owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", ())}
        ended = pod.get("status", {}).get("phase") in _ENDED
        yield pod["spec"].get("nodeName") in hosts and not ended and _STAYS.isdisjoint(owners)


def _items(primary: Host, *words: str) -> list[Mapping[str, Any]]:
    text = primary.run_checked(kubectl("get", *words, "--output=json")).text
    found: list[Mapping[str, Any]] = json.loads(text)["items"]
    return found


def _full_name(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{_checked(metadata['namespace'], _NAME)}/{_checked(metadata['name'], _NAME)}"


def _words(selector: Mapping[str, Any]) -> str:
    """A LabelSelector as --selector takes it; "" selects all."""
    parts = [f"{_label(key)}={_label(value)}" for key, value in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or ():
        values = ",".join(map(_label, each.get("values") or ()))
        parts.append(_OPERATORS[each["operator"]].format(_label(each["key"]), values))
    return ",".join(parts)


def _label(text: object) -> str:
    return _checked(text, _LABEL)


def _checked(text: object, form: re.Pattern[str]) -> str:
    if not isinstance(text, str) or not form.fullmatch(text):
        raise SmallkubeError(f"unexpected output from kubectl: {str(text)[:60]!r}")
    return text
