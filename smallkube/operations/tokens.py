"""New API tokens without an outage: both versions accepted, every client switched, the previous one refused.

The API server reads its table at start only. It accepts NAME, NAME.old and NAME.new; clients use NAME. Aborted before
the previous tokens are retired, they become the current ones again, with the new ones as NAME.new.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.inventory.cluster import Cluster
from smallkube.kube import token_clients
from smallkube.kube.token_users import User
from smallkube.operations.engine import Operation, Step, not_abortable
from smallkube.remote.host import Connect
from smallkube.secrets import change, kinds
from smallkube.secrets.age import Master
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.store import Keys, changing_keys, read_keys

NAME = "tokens"


def affected(keys: Keys, wanted: Sequence[User], everybody: Sequence[User], *, abort: bool) -> tuple[User, ...]:
    """Whose tokens are rotated: those of a rotation under way, which is ended first and alone, else ``wanted``.

    Raises UsageError when there is nothing to abort, or a token is missing.
    """
    begun = tuple(user for user in everybody if any(row.file in keys.files for row in user.secret.versions))
    if abort and not any(user.secret.other(keys.files) for user in begun):
        raise not_abortable(retired=bool(begun))
    if begun:
        return begun
    missing = [user.secret.file for user in wanted if user.secret.file not in keys.files]
    if missing:
        raise UsageError(f"missing: {', '.join(missing)}", where="keys/", hint="run `inv keys.generate`")
    return tuple(wanted)


@dataclass(frozen=True)
class Rotation:
    """What it takes to rotate the tokens of ``users``; ``seconds``: how long clients may take to switch."""

    cluster: Cluster
    users: tuple[User, ...]
    master: Master | None
    connect: Connect
    deploy: Callable[[], object]
    seconds: int

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps; ``keys`` say whether it goes forward or back (a rotation that was aborted stays so)."""
        names = ", ".join(user.short for user in self.users)
        rows = self._rows
        if abort or _any(keys, [row.new for row in rows]):
            new = [version for row in rows for version in (row.new, row.retired)]
            first = Step(f"make the previous tokens of {names} current again", self._back, lambda now: _any(now, new))
        else:
            old = [version for row in rows for version in (row.old, row.retired)]
            first = Step(f"generate tokens for {names}, keep the previous", self._begin, lambda now: _any(now, old))
        retired = [row.retired for row in rows]
        return Operation(
            NAME,
            (
                first,
                Step("deploy: both versions are accepted, clients use the current one", self.deploy),
                Step("verify that both are accepted", self._verify_both),
                Step("wait until every client uses the current one", self._await_clients),
                Step("retire the other version", self._retire, lambda now: _any(now, retired)),
                Step("deploy: only the current one is accepted", self.deploy),
                Step("verify that the retired one is refused", self._verify_refused),
                Step("delete the retired one", self._delete),
            ),
            lambda now: _any(now, [version for row in rows for version in row.versions]),
        )

    @property
    def _rows(self) -> list[Secret]:
        return [user.secret for user in self.users]

    def _change(self, contents: Contents) -> None:
        with changing_keys(self.cluster.workspace):
            change.apply(self.cluster, contents)

    def _begin(self) -> None:
        new = {row: kinds.make(Kind.TOKEN, ()) for row in self._rows}
        self._change(Contents(new, {row.old: row for row in self._rows}))

    def _back(self) -> None:
        files = {row: row.old for row in self._rows} | {row.new: row for row in self._rows}
        self._change(Contents({}, files, tuple(row.old for row in self._rows)))

    def _retire(self) -> None:
        others = self._others(read_keys(self.cluster.workspace))
        retired = {row.retired: self._open(other) for row, other in others.items()}
        self._change(Contents(retired, {}, tuple(others.values())))

    def _delete(self) -> None:
        self._change(Contents({}, {}, tuple(row.retired for row in self._rows)))

    def _others(self, keys: Keys) -> dict[Secret, Secret]:
        return {row: other for row in self._rows if (other := row.other(keys.files))}

    def _open(self, row: Secret) -> bytes:
        assert self.master
        return change.opened(read_keys(self.cluster.workspace), self.master, row)

    def _verify_both(self) -> None:
        self._verify([*self._rows, *self._others(read_keys(self.cluster.workspace)).values()], "accepted")

    def _verify_refused(self) -> None:
        self._verify([row.retired for row in self._rows], "refused")
        self._verify(self._rows, "accepted")

    def _verify(self, rows: Sequence[Secret], wanted: token_clients.Answer) -> None:
        with self.connect(self.cluster.inventory.primary) as primary:
            found = token_clients.attempt(primary, {row.name: self._open(row) for row in rows})
        if wrong := [f"{name} is {answer}" for name, answer in found.items() if answer != wanted]:
            hint = "run the same command again; inv tokens.status says more"
            raise SmallkubeError(f"the API server: {', '.join(wrong)}, not {wanted}", hint=hint)

    def _await_clients(self) -> None:
        wanted = {user.short: token_clients.sha256(self._open(user.secret)) for user in self.users}
        wait_until(lambda: self._outdated(wanted), self.seconds, _outdated_error)

    def _outdated(self, wanted: Mapping[str, str]) -> list[str]:
        found, unreachable = token_clients.holders(self.cluster.inventory, self.connect)
        return [*token_clients.behind(found, wanted), *(f"{node} ({why})" for node, why in unreachable.items())]


def _outdated_error(missing: str) -> SmallkubeError:
    hint = "the previous tokens still work; run the same command again when they are back"
    return SmallkubeError(f"not seen with the current token: {missing}", hint=hint)


def _any(keys: Keys, rows: Sequence[Secret]) -> bool:
    return any(row.file in keys.files for row in rows)
