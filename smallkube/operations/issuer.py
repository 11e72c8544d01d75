"""A new key for service accounts' tokens: it signs at once, those of the old one are accepted until nobody has any.

The old key stands beside as issuer.key.old (see nix/modules/apiserver.nix). Where a rotation stands follows from keys/
and from what the primary was given; each step may be done again. Going back makes the old key the one that signs, with
the new one as issuer.key.new beside it, and goes on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.inventory.models import Inventory
from smallkube.operations import issuer_keys
from smallkube.remote.host import Connect
from smallkube.secrets import change, kinds, policy
from smallkube.secrets.age import Master
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.store import Keys, changing_keys, read_keys

_POLL_SECONDS = 1.0


class Stage(StrEnum):
    """How far a rotation has come."""

    ONE = "one key"
    BOTH = "one key signs, tokens of the other are accepted"
    ENDING = "one key, of which the primary has not been told"


@dataclass(frozen=True)
class Plan:
    """``back``: the old key is to sign again. ``overlap``: for how many seconds, when no file holds an old token any
    more, those in memory are accepted.
    """

    stage: Stage
    back: bool
    overlap: int

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        last = ("deploy, and see its tokens refused",)
        if self.stage is Stage.ENDING:
            return last
        begin = ("make a new key; the old one stays beside it",) if self.stage is Stage.ONE else ()
        turn = ("make the old key the one that signs again",) if self.back else ()
        return (
            *begin,
            *turn,
            "deploy: tokens are signed with the current key, those of the other are accepted",
            "where pods have tokens of the other, restart the kubelets, which makes them ask for new ones",
            "wait until no pod and no Secret has one",
            f"wait {self.overlap} s for programs that have read their token before",
            "remove the other key",
            *last,
        )


def secret_of(inventory: Inventory) -> Secret:
    """The key that signs."""
    return next(row for row in policy.secrets_of(inventory) if row.kind is Kind.SIGNING_KEY)


def make(row: Secret, keys: Keys, deployed: Sequence[str], *, back: bool, overlap: int) -> Plan:
    """What is to be done. ``deployed`` are the names of secrets under /run/agenix of the primary. Raises UsageError."""
    if row.file not in keys.files:
        raise UsageError("missing", where=f"keys/{row.file}", hint="run `inv keys.generate`, or restore it from git")
    if row.other(keys.files):
        return Plan(Stage.BOTH, back and row.old.file in keys.files, overlap)
    if back:
        raise UsageError("no rotation is under way", hint="only one that has not ended can be taken back")
    told = not any(each.name in deployed for each in row.beside)
    return Plan(Stage.ONE if told else Stage.ENDING, False, overlap)


@dataclass(frozen=True)
class Rotation:
    """What it takes to carry out a plan; ``seconds``: how long tokens may take to be replaced."""

    workspace: Workspace
    inventory: Inventory
    master: Master
    connect: Connect
    watcher: Watcher
    seconds: int

    def execute(self, plan: Plan, step: Callable[[str], object]) -> str:
        """Carry out ``plan``; the id of the key that is left.

        Raises SmallkubeError at a step that failed: the same again goes on from there.
        """
        row = secret_of(self.inventory)
        if plan.stage is not Stage.ENDING:
            self._write(plan, row)
            other = row.other(read_keys(self.workspace).files)
            assert other
            self._overlap(plan, row, other, step)
            with changing_keys(self.workspace):
                change.apply(self.workspace, self.inventory, Contents({}, {}, (other,)))
        step("deploy without the other key")
        self._deploy()
        step("see its tokens refused")
        current = self._key_id(row)
        self._expect({current})
        return current

    def _overlap(self, plan: Plan, row: Secret, beside: Secret, step: Callable[[str], object]) -> None:
        current, other = self._key_id(row), self._key_id(beside)
        step("deploy both keys")
        self._deploy()
        self._expect({current, other})
        step("replace pods' tokens of the other key")
        self._renew(other)
        if found := issuer_keys.secrets_with(self.inventory, self.connect, other):
            patch = """kubectl -n NAMESPACE patch secret NAME --type=json -p '[{"op":"remove","path":"/data/token"}]'"""
            hint = f"each gets a new one by `{patch}`; give it to whoever has a copy, then run the same command again"
            raise SmallkubeError(f"Secrets hold tokens of the other key: {', '.join(found)}", hint=hint)
        step(f"wait {plan.overlap} s for programs that have read their token before")
        time.sleep(plan.overlap)

    def _renew(self, kid: str) -> None:
        """A kubelet asks for its pods' tokens anew when it starts; else it would when they are nearly an hour old."""
        if not issuer_keys.pods_with(self.inventory, self.connect, kid):
            return
        if silent := issuer_keys.restart_kubelets(self.inventory, self.connect):
            raise _waiting([f"{node} ({why})" for node, why in silent.items()])
        deadline = time.monotonic() + self.seconds
        while found := issuer_keys.pods_with(self.inventory, self.connect, kid):
            if time.monotonic() > deadline:
                raise _waiting(found)
            time.sleep(_POLL_SECONDS)

    def _write(self, plan: Plan, row: Secret) -> None:
        with changing_keys(self.workspace):
            if plan.stage is Stage.ONE:
                contents = Contents({row: kinds.make(row.kind, ())}, {row.old: row})
            elif plan.back:
                contents = Contents({}, {row: row.old, row.new: row}, (row.old,))
            else:
                return
            change.apply(self.workspace, self.inventory, contents)

    def _key_id(self, row: Secret) -> str:
        return issuer_keys.key_id(change.opened(read_keys(self.workspace), self.master, row), f"keys/{row.file}")

    def _deploy(self) -> None:
        roll_out(self.workspace, self.inventory, self.inventory.nodes, self.watcher)

    def _expect(self, wanted: set[str]) -> None:
        found = issuer_keys.accepted(self.inventory, self.connect)
        if found != wanted:
            reply = f"it accepts {', '.join(sorted(found))}, not {', '.join(sorted(wanted))}"
            raise SmallkubeError(
                f"the API server has other keys than keys/: {reply}", hint="run the same command again"
            )


def _waiting(found: list[str]) -> SmallkubeError:
    hint = "tokens of both keys are accepted still; run the same command again when it is mended, or --abort"
    return SmallkubeError(f"not all have a new token: {', '.join(found)}", hint=hint)
