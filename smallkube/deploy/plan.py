"""What a deploy will do, as a value: printed by ``--dry-run``, and executed as that same value. Pure."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallkube.core.errors import ErrorGroup, SmallkubeError, UsageError
from smallkube.deploy.stale_peers import Survey
from smallkube.inventory.models import Inventory, Node
from smallkube.remote import fleet
from smallkube.secrets.proof import Finding, State


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


class Step(StrEnum):
    """One step on one node, in the order in which they happen."""

    CONNECT = "connect"
    PREFLIGHT = "check the machine"
    PUSH = "push the configuration"
    BUILD = "build"
    BUILD_HERE = "build here"
    COPY = "copy the closure"
    FIND = "find the earlier generation"
    DIFFERENCE = "compare closures"
    DRY_ACTIVATE = "ask what activation would do"
    GATES = "see what works now"
    DRAIN = "drain if it is a member"
    ARM = "arm the rollback"
    ACTIVATE = "activate"
    CONFIRM = "confirm over a new connection"
    COMMIT = "make it the one that boots"
    UNCORDON = "uncordon"
    RECORD = "record"


_BUILD: Mapping[BuildOn, tuple[Step, ...]] = {
    BuildOn.TARGET: (Step.BUILD,),
    BuildOn.LOCAL: (Step.BUILD_HERE, Step.COPY),
}
_PREPARE = (
    Step.CONNECT,
    Step.PREFLIGHT,
    Step.PUSH,
    *(step for steps in _BUILD.values() for step in steps),
    Step.FIND,
    Step.DIFFERENCE,
)
_ACTIVATE = (Step.GATES, Step.DRAIN, Step.ARM, Step.ACTIVATE, Step.CONFIRM)
STEPS: Mapping[Goal, tuple[Step, ...]] = {
    Goal.BUILD: _PREPARE,
    Goal.DRY_ACTIVATE: (*_PREPARE, Step.DRY_ACTIVATE),
    Goal.BOOT: (*_PREPARE, Step.COMMIT, Step.RECORD),
    Goal.TEST: (*_PREPARE, *_ACTIVATE, Step.UNCORDON, Step.RECORD),
    Goal.SWITCH: (*_PREPARE, *_ACTIVATE, Step.COMMIT, Step.UNCORDON, Step.RECORD),
}
UNTOUCHED = frozenset((*_PREPARE, Step.DRY_ACTIVATE, Step.GATES, Step.DRAIN, Step.ARM))
"""When one of these is about to begin nothing was activated yet, and a deploy may simply stop."""
CONFIRM_SECONDS = 300


@dataclass(frozen=True)
class Options:
    """What a person may choose about a deploy.

    ``batch``: how many workers at a time (None: all). ``max_failures``: how many machines may fail before the rest is
    left alone. ``confirm_seconds``: after which a machine goes back by itself, counted from before the activation;
    ``rollback`` False: it never does. ``drain`` False: pods are
    not moved away before. ``with_peers``: take in the machines that have yet to learn of changed peers.
    ``build_on``: whose Nix builds; what is built here is copied to the machines.
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
    """Who is deployed to in which order, what, and how far.

    ``digest`` is the bundle's; ``nonce`` names this deploy on the machines. ``together``: all machines change at the
    same time, because their peers.json does. ``left_out``: machines that have yet to learn of that and are not in the
    plan, so that the tunnel can't be asked for.
    """

    goal: Goal
    stages: tuple[tuple[Node, ...], ...]
    digest: str
    nonce: str
    options: Options = Options()
    together: bool = False
    left_out: tuple[str, ...] = ()
    generation: str | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """In their order; with a ``generation`` ("" for the one before) nothing is pushed and built, but found."""
        left_out = set() if self.options.rollback else {Step.ARM}
        left_out |= set() if self.options.drain and not self.together else {Step.DRAIN, Step.UNCORDON}
        build = {step for where, steps in _BUILD.items() if where is not self.options.build_on for step in steps}
        every_build = {step for steps in _BUILD.values() for step in steps}
        left_out |= {Step.FIND, *build} if self.generation is None else {Step.PUSH, *every_build}
        return tuple(step for step in STEPS[self.goal] if step not in left_out)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for stage in self.stages for node in stage)


def make(
    nodes: Sequence[Node], digest: str, goal: Goal, options: Options | None = None, survey: Survey | None = None
) -> Plan:
    """The plan for these nodes: the primary first, then the workers; all at once when their peers change."""
    options, survey = options or Options(), survey or Survey()
    together = bool(survey.changed) and len(nodes) > 1 and Step.ACTIVATE in STEPS[goal]
    stages = (tuple(nodes),) if together else fleet.stages(nodes, options.batch)
    return Plan(goal, stages, digest, secrets.token_hex(4), options, together, survey.left_out)


def back(nodes: Sequence[Node], generation: str, options: Options) -> Plan:
    """The plan to go back to an earlier generation, "" for the one before."""
    return Plan(Goal.SWITCH, fleet.stages(nodes), "", secrets.token_hex(4), options, generation=generation)


def parse_goal(text: str) -> Goal:
    """The goal of that name; UsageError lists them."""
    try:
        return Goal(text)
    except ValueError as error:
        raise UsageError(f"no goal {text!r}", hint=f"the goals are {', '.join(Goal)}") from error


def parse_build_on(text: str) -> BuildOn:
    """Where to build, by that name; UsageError lists them."""
    try:
        return BuildOn(text)
    except ValueError as error:
        raise UsageError(f"--build-on {text!r}: not a place to build", hint=f"say {' or '.join(BuildOn)}") from error


def check_secrets(nodes: Sequence[Node], findings: Sequence[Finding]) -> None:
    """Raise ManyErrors for every secret that one of ``nodes`` could not decrypt after the deploy."""
    problems = list(_unreadable(nodes, findings))
    if problems:
        raise ErrorGroup(problems)


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
