"""What a deploy will do, as a value, and all that can be found wrong before a machine is changed. Steps: ``node``."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from smallkube.core import process
from smallkube.core.errors import ErrorGroup, UsageError
from smallkube.core.files import write_file
from smallkube.deploy import preflight
from smallkube.deploy.facts import SCRIPTS, Deployed
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node
from smallkube.nix import build, flake, lockfile, render
from smallkube.nix.bundle import Bundle, assemble
from smallkube.remote import fleet, scripts
from smallkube.remote.fleet import NodeOutcome
from smallkube.remote.host import Connect
from smallkube.remote.ssh import SshHost, connector
from smallkube.secrets import host_keys, policy, transaction
from smallkube.secrets.keyring import find_keyring, of_master
from smallkube.secrets.recipients import Finding, State

E = TypeVar("E", bound=StrEnum)


class Goal(StrEnum):
    """How far a deploy goes; the words of nixos-rebuild(8)."""

    SWITCH = "switch"
    BOOT = "boot"
    TEST = "test"
    DRY_ACTIVATE = "dry-activate"
    BUILD = "build"


EXPECTED = {
    Goal.BUILD: NodeOutcome.BUILT,
    Goal.DRY_ACTIVATE: NodeOutcome.CHECKED,
    Goal.TEST: NodeOutcome.TESTED,
    Goal.BOOT: NodeOutcome.READY,
    Goal.SWITCH: NodeOutcome.DEPLOYED,
}


class BuildOn(StrEnum):
    """Whose Nix builds the systems."""

    TARGET = "target"
    LOCAL = "local"


@dataclass(frozen=True)
class Options:
    """What the operator may choose about a deploy.

    ``batch``: how many workers at a time (None: all). ``max_failures``: how many nodes may fail before the deploy
    stops. ``confirm_seconds``: after which a node rolls back, counted from before the activation; ``rollback`` False:
    it never does. ``drain`` False: nothing is drained. ``with_peers``: include the nodes whose peers have changed.
    ``build_on``: whose Nix builds; what is built locally is copied to the nodes. ``accept_changes``: deploy values that
    a live cluster can't take, too. ``upgrade``: also other versions of Kubernetes or NixOS than were deployed last.
    ``force``: also older keys than those that were deployed last.
    """

    batch: int | None = None
    max_failures: int = 0
    confirm_seconds: int = 300
    rollback: bool = True
    drain: bool = True
    with_peers: bool = False
    build_on: BuildOn = BuildOn.TARGET
    accept_changes: bool = False
    force: bool = False
    upgrade: bool = False


DEFAULT = Options()


@dataclass(frozen=True)
class Plan:
    """Which nodes are deployed in which order, what, and how far.

    ``nonce`` names this deploy on the machines. ``lockstep``: all nodes are activated and confirmed at the same time,
    because their peers.json changes. ``left_out``: nodes that will not get the new peers, so that their tunnel cannot
    work. ``generation``: roll back to that one, "" for the previous; None for a deploy of ``bundle``.
    ``warnings``: for the operator, before anything is sent; ``not_asked``: nodes that were unreachable for the plan.
    ``keys`` and ``commit``: as in ``history.Entry``.
    """

    goal: Goal
    stages: tuple[tuple[Node, ...], ...]
    bundle: Bundle
    options: Options
    lockstep: bool = False
    left_out: tuple[str, ...] = ()
    generation: str | None = None
    warnings: tuple[str, ...] = ()
    not_asked: tuple[str, ...] = ()
    keys: str = ""
    commit: str = ""
    nonce: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for stage in self.stages for node in stage)

    @property
    def digest(self) -> str:
        """The bundle's, "" for a rollback."""
        return self.bundle.digest if self.generation is None else ""

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


@dataclass
class Report(fleet.Report):
    """How a deploy ended on a node.

    ``difference`` is Nix' closure difference, ``log`` the end of what failed; ``unconfirmed`` names the health checks
    that were skipped, or had failed before already. ``journal``: unit that failed → the end of its journal.
    """

    system: str = ""
    generation: str = ""
    pushed: bool = False
    difference: str = ""
    log: str = ""
    unconfirmed: tuple[str, ...] = ()
    journal: Mapping[str, str] = field(default_factory=dict)

    def add_reason(self, reason: str) -> None:
        """One more reason; the outcome stays."""
        self.reason = "; ".join(filter(None, (self.reason, reason)))


def make(
    nodes: Sequence[Node],
    bundle: Bundle,
    goal: Goal,
    options: Options = DEFAULT,
    *,
    new_peers: bool = False,
    left_out: tuple[str, ...] = (),
) -> Plan:
    """The plan for these nodes: the primary first, then the workers; in lockstep when their peers change."""
    plan = Plan(goal, fleet.stages(nodes, options.batch), bundle, options, left_out=left_out)
    if new_peers and len(nodes) > 1 and plan.activates:
        return replace(plan, stages=(tuple(nodes),), lockstep=True)
    return plan


def rollback(nodes: Sequence[Node], generation: str, options: Options) -> Plan:
    """The plan to roll back to a generation, "" for the previous one."""
    return Plan(Goal.SWITCH, fleet.stages(nodes), Bundle({}), options, generation=generation)


def choose(kind: type[E], flag: str, text: str) -> E:
    """The Goal or BuildOn of that name; UsageError lists them."""
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"--{flag} {text!r}: unknown", hint=f"pass one of {', '.join(kind)}") from error


def prepare(
    cluster: Cluster,
    nodes: Sequence[Node],
    goal: Goal,
    options: Options = DEFAULT,
    *,
    may_lock: bool = True,
    connect: Connect | None = None,
) -> Plan:
    """The plan of a deploy. ``may_lock``: make nix/flake.lock, or pin what it lacks or has of elsewhere. Raises
    UsageError or ErrorGroup when the workspace is not fit to be deployed.
    """
    whole, found_secrets = _workspace(cluster, options.build_on), findings(cluster)
    check_secrets(nodes, found_secrets)
    if may_lock and flake.LOCK_FILE not in whole.files:
        whole = _locked(cluster, whole)
    connect = connect or connector(cluster.workspace)
    asked = [*nodes, *(node for node in (cluster.inventory.primary,) if node not in nodes)]
    found = preflight.ask(asked, connect)
    new_peers, others = preflight.stale_peers(cluster, nodes, found, whole.files["keys/peers.json"], connect)
    if options.with_peers and others:
        nodes = cluster.inventory.select([*(node.name for node in nodes), *others])
        found, new_peers, others = found | others, True, {}
        check_secrets(nodes, found_secrets)
    states = transaction.states(cluster.workspace)
    if not options.force:
        preflight.refuse_older_keys(found, states)
    preflight.refuse_other_public_keys(nodes, found, whole)
    if not options.accept_changes:
        # A preview may be of an upgrade: nothing is activated.
        versions = not options.upgrade and goal not in (Goal.BUILD, Goal.DRY_ACTIVATE)
        preflight.refuse_changes(cluster, found, whole.files, versions=versions)
    warnings = tuple(preflight.warnings(cluster, nodes, found, whole))
    # Not before a change of versions is refused: it may need the network, or the primary.
    if may_lock:
        whole = locked(cluster, whole)
    planned = make(nodes, whole, goal, options, new_peers=new_peers, left_out=tuple(others))
    keys, commit = next(iter(states), ""), preflight.commit(cluster.workspace)
    not_asked = tuple(node.name for node in asked if node.name not in found)
    return replace(planned, warnings=warnings, not_asked=not_asked, keys=keys, commit=commit)


def _workspace(cluster: Cluster, build_on: BuildOn) -> Bundle:
    if build_on is BuildOn.LOCAL:
        build.require_nix()
    preflight.check_rendered(cluster, render.plan(cluster).changed)
    whole = assemble(cluster)
    flake.require_sound_lock(whole.files)
    return whole


def require_current(cluster: Cluster, connect: Connect) -> Mapping[str, Deployed]:
    """What was deployed to each machine that can be asked: before keys/ is changed for a deploy.

    Raises UsageError for older keys, and ErrorGroup for values, that the deploy would refuse.
    """
    found = preflight.ask(cluster.inventory.nodes, connect)
    preflight.refuse_older_keys(found, transaction.states(cluster.workspace))
    texts = render.plan(cluster).files
    files = {file: texts[cluster.workspace.root / file].encode() for file in preflight.FILES}
    preflight.refuse_changes(cluster, found, files, versions=True)
    return found


def locked(cluster: Cluster, whole: Bundle) -> Bundle:
    """``whole`` with every input of its flake locked: nix/flake.lock is made, or gets what is ``stale``.

    Raises SmallkubeError when Nix can't do that, such as without network.
    """
    complete = lockfile.is_complete(whole.files.get(flake.LOCK_FILE), whole.files[flake.FILE])
    return whole if complete else _locked(cluster, whole)


def _locked(cluster: Cluster, unlocked: Bundle) -> Bundle:
    write_file(cluster.workspace.flake_lock, _lock(cluster, unlocked))
    return assemble(cluster)


def _lock(cluster: Cluster, unlocked: Bundle) -> bytes:
    """Lock the flake's inputs with the Nix of this machine, else with that of the primary."""
    if process.find("nix"):
        return flake.lock(unlocked.files, update=False)
    with SshHost(cluster.workspace, cluster.inventory.primary) as host:
        scripts.push(host, "bundles", unlocked)
        return host.run_checked(SCRIPTS.sent("lock-flake", unlocked.digest, timeout=flake.SECONDS)).stdout


def findings(cluster: Cluster) -> Sequence[Finding]:
    """What the files show of their recipients; a deploy does not need the master key."""
    keys = transaction.read_keys(cluster.workspace)
    known = find_keyring(cluster, None) or of_master("", host_keys.load_hosts(cluster))
    return transaction.examined(cluster, keys, policy.expected(cluster.inventory, keys.files), known)


def check_secrets(nodes: Sequence[Node], findings: Sequence[Finding]) -> None:
    """Raise ErrorGroup for every secret that one of ``nodes`` could not decrypt after the deploy."""
    names, problems = {node.name for node in nodes}, []
    for finding in findings:
        affected = sorted(names & set(finding.secret.readers))
        if affected and finding.state is not State.GOOD:
            command = "inv keys.generate" if finding.state is State.MISSING else "inv keys.rekey"
            problem = f"{', '.join(finding.faults)} ({', '.join(affected)} must be able to read it); nothing was sent"
            problems.append(UsageError(problem, where=f"keys/{finding.secret.file}", hint=f"run `{command}`"))
    if problems:
        raise ErrorGroup(problems)
