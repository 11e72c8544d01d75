"""What a deploy will do, as a value: printed by ``--dry-run``, and executed as that same value. Pure."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallkube.errors import ManyErrors, SmallkubeError, UsageError
from smallkube.inventory import Inventory, Node
from smallkube.remote import fleet
from smallkube.secrets.proof import Finding, State


class Goal(StrEnum):
    """How far a deploy goes; the words of nixos-rebuild(8)."""

    SWITCH = "switch"
    BOOT = "boot"
    TEST = "test"
    DRY_ACTIVATE = "dry-activate"
    BUILD = "build"


class Step(StrEnum):
    """One step on one node, in the order in which they happen."""

    CONNECT = "connect"
    PREFLIGHT = "check the machine"
    PUSH = "push the configuration"
    BUILD = "build"
    DIFFERENCE = "compare closures"
    DRY_ACTIVATE = "ask what activation would do"
    ARM = "arm the rollback"
    ACTIVATE = "activate"
    CONFIRM = "confirm over a new connection"
    COMMIT = "make it the one that boots"
    RECORD = "record"


_PREPARE = (Step.CONNECT, Step.PREFLIGHT, Step.PUSH, Step.BUILD, Step.DIFFERENCE)
STEPS: Mapping[Goal, tuple[Step, ...]] = {
    Goal.BUILD: _PREPARE,
    Goal.DRY_ACTIVATE: (*_PREPARE, Step.DRY_ACTIVATE),
    Goal.BOOT: (*_PREPARE, Step.COMMIT, Step.RECORD),
    Goal.TEST: (*_PREPARE, Step.ARM, Step.ACTIVATE, Step.CONFIRM, Step.RECORD),
    Goal.SWITCH: (*_PREPARE, Step.ARM, Step.ACTIVATE, Step.CONFIRM, Step.COMMIT, Step.RECORD),
}
CONFIRM_SECONDS = 300


@dataclass(frozen=True)
class Plan:
    """Who is deployed to in which order, what, and how far.

    ``digest`` is the bundle's; ``nonce`` names this deploy on the machines; ``confirm_seconds`` is the time after which
    a machine goes back by itself, counted from before the activation.
    """

    goal: Goal
    stages: tuple[tuple[Node, ...], ...]
    digest: str
    nonce: str
    confirm_seconds: int = CONFIRM_SECONDS

    @property
    def steps(self) -> tuple[Step, ...]:
        return STEPS[self.goal]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for stage in self.stages for node in stage)


def make(
    nodes: Sequence[Node],
    digest: str,
    goal: Goal,
    *,
    batch: int | None = None,
    confirm_seconds: int = CONFIRM_SECONDS,
) -> Plan:
    """The plan for these nodes: the primary first, then the workers, ``batch`` at a time."""
    if not 10 <= confirm_seconds <= 3600:
        raise UsageError(f"--confirm-timeout {confirm_seconds}: must be from 10 to 3600 seconds")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch}: must be at least 1")
    return Plan(goal, fleet.stages(nodes, batch), digest, secrets.token_hex(4), confirm_seconds)


def parse_goal(text: str) -> Goal:
    """The goal of that name; UsageError lists them."""
    try:
        return Goal(text)
    except ValueError as error:
        raise UsageError(f"no goal {text!r}", hint=f"the goals are {', '.join(Goal)}") from error


def check_secrets(nodes: Sequence[Node], findings: Sequence[Finding]) -> None:
    """Raise ManyErrors for every secret that one of ``nodes`` could not decrypt after the deploy."""
    problems = list(_unreadable(nodes, findings))
    if problems:
        raise ManyErrors(problems)


def _unreadable(nodes: Sequence[Node], findings: Sequence[Finding]) -> Iterator[SmallkubeError]:
    names = {node.name for node in nodes}
    for finding in findings:
        concerned = sorted(names & set(finding.secret.readers))
        if concerned and finding.state is not State.GOOD:
            command = "inv keys.generate" if finding.state is State.MISSING else "inv keys.rekey"
            yield UsageError(
                f"{', '.join(finding.faults)} ({', '.join(concerned)} must be able to read it); nothing was sent",
                where=f"keys/{finding.secret.file}",
                hint=f"run `{command}`",
            )


def unrendered(inventory: Inventory, stale: Sequence[str]) -> None:
    """Raise UsageError when what is rendered is not what the inventory says."""
    if stale:
        raise UsageError(
            f"not rendered from the inventory as it is now ({inventory.cluster.name}): {', '.join(stale[:3])}"
            + (f" and {len(stale) - 3} more" if len(stale) > 3 else ""),
            hint="run `inv nix.render`",
        )
