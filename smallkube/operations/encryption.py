"""A new key for the Secrets in etcd, in the phases in which everything stays readable at every moment.

Where a rotation stands follows from keys/ (see ``phases``); each step may be done again. Going back, as long as both
keys are there, is to go on with the old one as the one that stays.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.etcd import host
from smallkube.inventory.models import Inventory
from smallkube.operations.encryption_phases import Configuration, Phase, parse
from smallkube.remote.command import Command
from smallkube.remote.host import Connect, Host
from smallkube.secrets import change, policy
from smallkube.secrets.age import Master
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.store import changing_keys, read_keys

_SCRIPTS = Path(__file__).with_name("scripts")
_REWRITE_SECONDS = 1800
KUBECONFIG = "/run/kubeconfig-root"


@dataclass(frozen=True)
class Plan:
    """From where: ``phase``; ``back``: the older key stays. ``resources`` get encrypted from now on as well."""

    phase: Phase
    back: bool
    resources: tuple[str, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words; a backup comes before."""
        stays, goes = ("old", "new") if self.back else ("new", "old")
        add = ("make a new key, which only decrypts at first; deploy the primary",) if self.phase is Phase.ONE else ()
        first = Phase.ADDED if self.back else Phase.PROMOTED
        turn = () if self.phase is first else (f"let the {stays} key encrypt; deploy the primary",)
        return (
            *add,
            *turn,
            f"write all {', '.join(self.resources)} again",
            f"see in etcd that nothing is encrypted with the {goes} key, or not at all",
            f"remove the {goes} key; deploy the primary",
        )


@dataclass(frozen=True)
class Outcome:
    """``key`` is the name of the one key there is now; ``rewritten`` how many objects were written again."""

    key: str
    rewritten: int
    stored: dict[str, int]


def paths(resources: Sequence[str]) -> list[str]:
    """Where in etcd, below /registry/, objects of ``resources`` are: those of custom groups lie under their group."""
    found = []
    for resource in resources:
        name, _, group = resource.partition(".")
        found += [name, f"{group}/{name}"] if group else [name]
    return found


@dataclass(frozen=True)
class Rotation:
    """What it takes to carry out a plan."""

    workspace: Workspace
    inventory: Inventory
    master: Master
    connect: Connect

    def read(self) -> Configuration:
        """The configuration in keys/, with all resources that the inventory wants encrypted. Raises SmallkubeError."""
        plaintext = change.opened(read_keys(self.workspace), self.master, self._secret)
        return parse(plaintext).covering(self.inventory.cluster.secrets.encrypted_resources)

    def plan(self, *, back: bool) -> Plan:
        """Raises UsageError when nothing can be gone back from."""
        found = self.read()
        if back and found.phase is Phase.ONE:
            raise UsageError("no rotation is under way", hint="only one that has not ended can be taken back")
        if patterns := [resource for resource in found.resources if "*" in resource]:
            hint = "name the resources one by one in cluster.secrets.encrypted_resources"
            raise UsageError(f"what {', '.join(patterns)} stands for is not known here", hint=hint)
        return Plan(found.phase, back, found.resources)

    def execute(self, plan: Plan, watcher: Watcher, step: Callable[[str], object]) -> Outcome:
        """Carry out ``plan``. Raises SmallkubeError at a step that failed: the same again goes on from there."""
        found = self.read()
        if found.phase is Phase.ONE:
            step("add a new key")
            found = found.with_new(secrets.token_bytes(32))
            self._deploy(found, watcher)
        else:
            step("deploy both keys")
            self._deploy(found, watcher)
        if (found.phase is Phase.ADDED) != plan.back:
            step(f"let {found.keys[1][0]} encrypt")
            found = found.swapped()
            self._deploy(found, watcher)
        (stays, _), (goes, _) = found.keys
        with self.connect(self.inventory.primary) as primary:
            step(f"write all {', '.join(found.resources)} again")
            rewritten = self._rewrite(primary, found.resources)
            step("look into etcd")
            stored = self.stored(primary, found.resources)
        if bad := {name: count for name, count in stored.items() if name != stays}:
            reply = ", ".join(f"{count} with {name}" for name, count in bad.items())
            hint = "run the same command again; both keys stay until then"
            raise SmallkubeError(f"not everything is encrypted with {stays}: {reply}", hint=hint)
        step(f"remove {goes}")
        self._deploy(found.first_only(), watcher, everywhere=True)
        return Outcome(stays, rewritten, stored)

    @property
    def _secret(self) -> Secret:
        return next(row for row in policy.secrets_of(self.inventory) if row.kind is Kind.ENCRYPTION)

    def _deploy(self, configuration: Configuration, watcher: Watcher, *, everywhere: bool = False) -> None:
        """The API server reads it when it starts, which a changed file makes it do.

        ``everywhere`` so that no machine is left with another state of the workspace, though it is the same for it.
        """
        with changing_keys(self.workspace):
            plaintext = change.opened(read_keys(self.workspace), self.master, self._secret)
            if parse(plaintext) != configuration:
                change.apply(self.workspace, self.inventory, Contents({self._secret: configuration.text()}, {}))
        nodes = self.inventory.nodes if everywhere else [self.inventory.primary]
        roll_out(self.workspace, self.inventory, nodes, watcher)

    def _rewrite(self, primary: Host, resources: Sequence[str]) -> int:
        reply = primary.run_checked(_script("rewrite", KUBECONFIG, *resources, seconds=_REWRITE_SECONDS))
        return int(reply.text or 0)

    def stored(self, primary: Host, resources: Sequence[str]) -> dict[str, int]:
        """How many values in etcd are encrypted with the key of which name; "clear": with none."""
        reply = primary.run_checked(_script("stored", host.ENDPOINT, *paths(resources), seconds=_REWRITE_SECONDS))
        rows = (line.split() for line in reply.text.splitlines())
        return {name: int(count) for count, name in rows}


def _script(name: str, *arguments: str, seconds: int) -> Command:
    argv = ("/bin/sh", "-c", (_SCRIPTS / f"{name}.sh").read_text(), name, *arguments)
    return Command(argv, timeout=seconds, title=name)
