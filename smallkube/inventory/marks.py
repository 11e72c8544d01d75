"""Labels and taints of nodes, as kubectl writes them: KEY=VALUE, and KEY=VALUE:EFFECT or KEY:EFFECT."""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_WORD = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_WORD}"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_OURS = (
    *("role", "node-restriction.kubernetes.io/role", CONTROL_PLANE),
    *("kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"),
)
"""Labels that the kubelet or we set."""


def name(mark: str) -> str:
    """What there can be only one of on a node: the key of a label, KEY:EFFECT of a taint."""
    return re.sub("=[^:]*", "", mark)


def _label(value: str) -> str:
    if name(value) in _OURS:
        raise ValueError(f"{name(value)} is set by smallkube or the kubelet")
    return value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    names = [name(value) for value in values]
    if twice := [each for each in names if names.count(each) > 1]:
        raise ValueError(f"{twice[0]} is there twice")
    return values


Label = Annotated[str, StringConstraints(pattern=rf"^{_KEY}=({_WORD})?$"), AfterValidator(_label)]
Taint = Annotated[str, StringConstraints(pattern=rf"^{_KEY}(=({_WORD})?)?:(NoSchedule|PreferNoSchedule|NoExecute)$")]
Labels = Annotated[tuple[Label, ...], AfterValidator(_distinct)]
Taints = Annotated[tuple[Taint, ...], AfterValidator(_distinct)]
