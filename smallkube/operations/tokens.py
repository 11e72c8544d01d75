"""New API tokens without an outage: both versions accepted, every client switched, the previous one refused.

The API server reads its table at start only. It accepts NAME, NAME.old and NAME.new; clients use NAME.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.inventory.models import Node
from smallkube.kube import token_clients
from smallkube.kube.token_clients import Answer
from smallkube.kube.token_users import User
from smallkube.operations.engine import Operation, Overlap, Step, in_keys
from smallkube.remote.host import Connect
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Keys

NAME = "tokens"


def affected(keys: Keys, wanted: Sequence[User], everybody: Sequence[User]) -> tuple[User, ...]:
    """Whose tokens are rotated: those of a rotation under way, which is ended first and alone, else ``wanted``.

    Raises UsageError when a token is missing.
    """
    if begun := tuple(user for user in everybody if in_keys(user.secret.versions)(keys)):
        return begun
    if missing := [user.secret.file for user in wanted if user.secret.file not in keys.files]:
        raise UsageError(f"missing: {', '.join(missing)}", where="keys/", hint="run `inv keys.generate`")
    return tuple(wanted)


@dataclass(frozen=True)
class Rotation:
    """What it takes to rotate the tokens of ``users``; ``seconds``: how long clients may take to switch."""

    overlap: Overlap
    users: tuple[User, ...]
    connect: Connect
    deploy: Callable[[], object]
    seconds: int

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps. Raises UsageError when there is nothing to abort."""
        names = ", ".join(user.short for user in self.users)
        titles = f"generate tokens for {names}, keep the previous", f"make the previous tokens of {names} current again"
        both = (
            Step("deploy: both versions are accepted, clients use the current one", self.deploy),
            Step("verify that both are accepted", self._verify_both),
            Step("wait until every client uses the current one", self._await_clients),
        )
        one = (
            Step("deploy: only the current one is accepted", self.deploy),
            Step("verify that the retired one is refused", self._verify_refused),
        )
        return self.overlap.operation(NAME, keys, titles, both, one, abort=abort)

    def _verify_both(self) -> None:
        self._verify([*self.overlap.rows, *self.overlap.others.values()], "accepted")

    def _verify_refused(self) -> None:
        self._verify([row.retired for row in self.overlap.rows], "refused")
        self._verify(self.overlap.rows, "accepted")

    def _verify(self, rows: Sequence[Secret], wanted: Answer) -> None:
        opened = {row: self.overlap.open(row) for row in rows}
        verify(self.overlap.cluster.inventory.primary, self.connect, opened, wanted)

    def _await_clients(self) -> None:
        wanted = {user.short: token_clients.sha256(self.overlap.open(user.secret)) for user in self.users}

        def outdated() -> list[str]:
            found, unreachable = token_clients.in_use(self.overlap.cluster.inventory, self.connect)
            return [*token_clients.outdated(found, wanted), *(f"{node} ({why})" for node, why in unreachable.items())]

        wait_until(outdated, self.seconds, _outdated_error)


def verify(primary: Node, connect: Connect, tokens: Mapping[Secret, bytes], wanted: Answer) -> None:
    """Raise SmallkubeError unless the API server answers as ``wanted`` to each of ``tokens`` (row → token)."""
    with connect(primary) as host:
        found = token_clients.attempt(host, {row.name: token for row, token in tokens.items()})
    if wrong := [f"{name} is {answer}" for name, answer in found.items() if answer != wanted]:
        hint = "run the same command again; inv tokens.status says more"
        raise SmallkubeError(f"the API server: {', '.join(wrong)}, not {wanted}", hint=hint)


def _outdated_error(missing: str) -> SmallkubeError:
    hint = "the previous tokens still work; run the same command again when they are reachable"
    return SmallkubeError(f"not seen with the current token: {missing}", hint=hint)
