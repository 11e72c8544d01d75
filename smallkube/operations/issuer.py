"""A new key for service accounts' tokens: it signs at once, tokens of the previous one are accepted while they exist.

The API server signs with issuer.key and accepts tokens of issuer.key.old and issuer.key.new, too (see
nix/modules/apiserver.nix).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.inventory.models import Inventory
from smallkube.operations import trust_facts
from smallkube.operations.engine import Operation, Overlap, Step
from smallkube.remote.host import Connect
from smallkube.secrets import policy
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.transaction import Keys

NAME = "issuer"


def row_of(inventory: Inventory) -> Secret:
    """The key that signs."""
    return next(row for row in policy.secrets_of(inventory) if row.kind is Kind.SIGNING_KEY)


@dataclass(frozen=True)
class Rotation:
    """What it takes to rotate the key. ``wait``: for how many seconds tokens in memory are still accepted when no
    file holds a previous one any more; ``seconds``: how long tokens may take to be replaced.
    """

    overlap: Overlap
    connect: Connect
    deploy: Callable[[], object]
    wait: int
    seconds: int

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps. Raises UsageError when there is nothing to abort, or no key."""
        (row,) = self.overlap.rows
        if row.file not in keys.files:
            raise UsageError(
                "missing", where=f"keys/{row.file}", hint="run `inv keys.generate`, or restore it from git"
            )
        titles = "generate a key, keep the previous", "let the previous key sign again"
        both = (
            Step("deploy: the current key signs, tokens of both are accepted", self.deploy),
            Step("verify that tokens of both are accepted", lambda: self._expect({self.key, self._other})),
            Step("replace the pods' tokens of the other key (restarts kubelets)", self._renew),
            Step("verify that no Secret holds a token of the other key", self._verify_secrets),
            Step(f"wait {self.wait} s for programs to read their new token", lambda: time.sleep(self.wait)),
        )
        one = (
            Step("deploy: only tokens of the current key are accepted", self.deploy),
            Step("verify that tokens of the retired key are refused", lambda: self._expect({self.key})),
        )
        return self.overlap.operation(NAME, keys, titles, both, one, abort=abort)

    @property
    def key(self) -> str:
        """The id of the key that signs, by keys/."""
        (row,) = self.overlap.rows
        return trust_facts.key_id(self.overlap.open(row), f"keys/{row.file}")

    @property
    def _other(self) -> str:
        (other,) = self.overlap.others.values()
        return trust_facts.key_id(self.overlap.open(other), f"keys/{other.file}")

    def _expect(self, wanted: set[str]) -> None:
        found = trust_facts.accepted_keys(self.overlap.cluster.inventory, self.connect)
        if found != wanted:
            differs = f"it accepts {', '.join(sorted(found))}, not {', '.join(sorted(wanted))}"
            hint = "run the same command again"
            raise SmallkubeError(f"the API server has other keys than keys/: {differs}", hint=hint)

    def _renew(self) -> None:
        """A kubelet requests new tokens for its pods when it starts, otherwise when they are nearly an hour old."""
        inventory, other = self.overlap.cluster.inventory, self._other
        if not trust_facts.pods_with_tokens(inventory, self.connect, other):
            return
        if unreachable := trust_facts.restart_kubelets(inventory, self.connect):
            raise _waiting(", ".join(unreachable))
        wait_until(lambda: trust_facts.pods_with_tokens(inventory, self.connect, other), self.seconds, _waiting)

    def _verify_secrets(self) -> None:
        if found := trust_facts.secrets_with_tokens(self.overlap.cluster.inventory, self.connect, self._other):
            patch = """kubectl -n NAMESPACE patch secret NAME --type=json -p '[{"op":"remove","path":"/data/token"}]'"""
            hint = f"each gets a new one by `{patch}`; replace all copies of it, then run the same command again"
            raise SmallkubeError(f"Secrets hold tokens of the other key: {', '.join(found)}", hint=hint)


def _waiting(missing: str) -> SmallkubeError:
    hint = "tokens of both keys are still accepted; run the same command again when it is fixed, or --abort"
    return SmallkubeError(f"not all have a new token: {missing}", hint=hint)
