"""What a deploy will do, as a value; its steps on each node are in ``deploy.node``. Pure."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.deploy.facts import StalePeers
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.remote import fleet
from smallkube.secrets.recipients import Finding, State

E = TypeVar("E", bound=StrEnum)


class Goal(StrEnum):
    """How far a deploy goes; the words of nixos-rebuild(8)."""

    SWITCH = "switch"
    BOOT = "boot"
    TEST = "test"
    DRY_ACTIVATE = "dry-activate"
    BUILD = "build"


class BuildOn(StrEnum):
    """Whose Nix builds the systems."""

    TARGET = "target"
    LOCAL = "local"


CONFIRM_SECONDS = 300


@dataclass(frozen=True)
class Options:
    """What the operator may choose about a deploy.

    ``batch``: how many workers at a time (None: all). ``max_failures``: how many nodes may fail before the deploy
    stops. ``confirm_seconds``: after which a node rolls back, counted from before the activation; ``rollback`` False:
    it never does. ``drain`` False: nothing is drained. ``with_peers``: include the nodes whose peers have changed.
    ``build_on``: whose Nix builds; what is built locally is copied to the nodes.
    """

    batch: int | None = None
    max_failures: int = 0
    confirm_seconds: int = CONFIRM_SECONDS
    rollback: bool = True
    drain: bool = True
    with_peers: bool = False
    build_on: BuildOn = BuildOn.TARGET

    def __post_init__(self) -> None:
        if not 10 <= self.confirm_seconds <= 3600:
            raise UsageError(f"--confirm-timeout {self.confirm_seconds}: must be from 10 to 3600 seconds")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be at least 1")
        if self.max_failures < 0:
            raise UsageError(f"--max-failures {self.max_failures}: must not be negative")


@dataclass(frozen=True)
class Plan:
    """Which nodes are deployed in which order, what, and how far.

    ``digest`` is the bundle's; ``nonce`` names this deploy on the machines. ``lockstep``: all nodes are activated and
    confirmed at the same time, because their peers.json changes. ``left_out``: nodes that will not get the new peers,
    so that their tunnel cannot work. ``generation``: roll back to that one, "" for the previous; None for a deploy.
    """

    goal: Goal
    stages: tuple[tuple[Node, ...], ...]
    digest: str
    nonce: str
    options: Options = Options()
    lockstep: bool = False
    left_out: tuple[str, ...] = ()
    generation: str | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for stage in self.stages for node in stage)

    @property
    def activates(self) -> bool:
        return self.goal in (Goal.TEST, Goal.SWITCH)

    @property
    def arms(self) -> bool:
        return self.activates and self.options.rollback

    @property
    def commits(self) -> bool:
        return self.goal in (Goal.BOOT, Goal.SWITCH)

    @property
    def drains(self) -> bool:
        return self.activates and self.options.drain and not self.lockstep

    def builds(self, build_on: BuildOn) -> bool:
        """Whether systems are built there."""
        return self.generation is None and self.options.build_on is build_on


def make(
    nodes: Sequence[Node], digest: str, goal: Goal, options: Options | None = None, stale: StalePeers | None = None
) -> Plan:
    """The plan for these nodes: the primary first, then the workers; in lockstep when their peers change."""
    options, stale = options or Options(), stale or StalePeers()
    plan = Plan(goal, fleet.stages(nodes, options.batch), digest, secrets.token_hex(4), options, False, stale.left_out)
    if stale.changed and len(nodes) > 1 and plan.activates:
        return replace(plan, stages=(tuple(nodes),), lockstep=True)
    return plan


def rollback(nodes: Sequence[Node], generation: str, options: Options) -> Plan:
    """The plan to roll back to a generation, "" for the previous one."""
    return Plan(Goal.SWITCH, fleet.stages(nodes), "", secrets.token_hex(4), options, generation=generation)


def choose(kind: type[E], flag: str, text: str) -> E:
    """The Goal or BuildOn of that name; UsageError lists them."""
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"--{flag} {text!r}: unknown", hint=f"pass one of {', '.join(kind)}") from error


def check_secrets(nodes: Sequence[Node], findings: Sequence[Finding]) -> None:
    """Raise ErrorGroup for every secret that one of ``nodes`` could not decrypt after the deploy."""
    problems = list(_unreadable(nodes, findings))
    if problems:
        raise ErrorGroup(problems)


def _unreadable(nodes: Sequence[Node], findings: Sequence[Finding]) -> Iterator[SmallkubeError]:
    names = {node.name for node in nodes}
    for finding in findings:
        affected = sorted(names & set(finding.secret.readers))
        if affected and finding.state is not State.GOOD:
            command = "inv keys.generate" if finding.state is State.MISSING else "inv keys.rekey"
            yield UsageError(
                f"{', '.join(finding.faults)} ({', '.join(affected)} must be able to read it); nothing was sent",
                where=f"keys/{finding.secret.file}",
                hint=f"run `{command}`",
            )


def check_rendered(cluster: Cluster, stale: Sequence[Path]) -> None:
    """Raise UsageError when ``stale`` files are not rendered from the inventory as it is."""
    if stale:
        names = [cluster.workspace.relative(path) for path in stale]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UsageError(
            f"not rendered from the inventory as it is now ({cluster.inventory.cluster.name}): "
            f"{', '.join(names[:3])}{more}",
            hint="run `inv nix.render`",
        )
