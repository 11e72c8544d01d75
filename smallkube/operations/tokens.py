"""New API tokens without an outage: both versions accepted, every client switched, the previous one refused.

The API server reads its table at start only. It accepts NAME, NAME.old and NAME.new; clients use NAME. Also how old
each token is, and which client uses which.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smallkube.core import git
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.polling import wait_until
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.kube import token_clients
from smallkube.kube.token_clients import Answer, TokenClient, sha256
from smallkube.operations.engine import REACHED, Operation, Overlap, Runbook, Step, in_keys
from smallkube.secrets import policy, transaction
from smallkube.secrets.age import read_master
from smallkube.secrets.policy import Secret
from smallkube.secrets.transaction import Keys, read_keys

Users = dict[str, Secret]
"""Short name of a user → the secret that holds its token."""


def select(users: Users, names: Sequence[str]) -> Users:
    """Those called so, by either name. Raises UsageError on an unknown name, and when no user was named."""
    known = {name: short for short, row in users.items() if row.user for name in (short, row.user.name)}
    for name in names:
        if name not in known:
            raise UsageError(f"no user {name!r}", hint=f"there are {', '.join(users)}")
    if not names:
        raise UsageError("no user selected", hint="--user NAME (repeatable), or --all")
    return {known[name]: users[known[name]] for name in names}


def affected(keys: Keys, wanted: Users, everybody: Users, off: Collection[str] = ()) -> tuple[Users, Users]:
    """Whose tokens are rotated: those of a rotation under way, which is ended first and alone, else ``wanted``.

    And who of them is left, because the node that uses the token is ``off``. Raises UsageError when a token is missing,
    or none can be rotated.
    """
    begun = {user: row for user, row in everybody.items() if in_keys(row.versions)(keys)}
    left = {user: row for user, row in {**begun, **wanted}.items() if row.node in off}
    begun, wanted = ({user: row for user, row in users.items() if user not in left} for users in (begun, wanted))
    if left and not begun and not wanted:
        hint = "run the same command again once it can; inv nodes.remove NODE --revoke needs only the other nodes"
        raise UsageError(f"{', '.join(left)} can't be reached, to get a new token", hint=hint)
    if begun:
        return begun, left
    transaction.require(keys, wanted.values())
    return wanted, left


@dataclass
class Rotation(Overlap):
    """Rotates the tokens of ``users``; ``seconds``: how long clients may take to switch.

    ``off``: nodes that are not deployed to, because they can't be reached; none of ``users`` has clients there.
    """

    users: Users
    seconds: int
    off: Collection[str] = ()

    @property
    def rows(self) -> tuple[Secret, ...]:
        return tuple(self.users.values())

    def operation(self, keys: Keys, *, abort: bool) -> Operation:
        """The steps. Raises UsageError when there is nothing to abort."""
        names = ", ".join(self.users)
        titles = f"generate tokens for {names}, keep the previous", f"make the previous tokens of {names} current again"
        both = (
            Step("deploy: both versions are accepted, clients use the current one", self._deploy_reached),
            Step("verify that both are accepted", self._verify_both),
            Step("wait until every client uses the current one", self._await_clients),
        )
        one = (
            Step("deploy: only the current one is accepted", self._deploy_reached),
            Step("verify that the retired one is refused", self._verify_refused),
            Step(REACHED, lambda: self.await_service(self.seconds, self.off)),
        )
        return self._operation(keys, abort, titles, both, one)

    def _deploy_reached(self) -> None:
        self.deploy([node for node in self.inventory.nodes if node.name not in self.off])

    def _verify_both(self) -> None:
        verify(self, dict.fromkeys([*self.rows, *self.others(self.keys).values()], "accepted"))

    def _verify_refused(self) -> None:
        retired: dict[Secret, Answer] = {row.retired: "refused" for row in self.rows}
        verify(self, {**retired, **dict.fromkeys(self.rows, "accepted")})

    def _await_clients(self) -> None:
        wanted = {user: sha256(self.open(row)) for user, row in self.users.items()}

        def outdated() -> list[str]:
            found, unreachable = token_clients.in_use(self.inventory, self.connect)
            missing = [f"{node} ({why})" for node, why in unreachable.items() if node not in self.off]
            return [*token_clients.outdated(found, wanted), *missing]

        hint = "the previous tokens still work; run the same command again when they are reachable"
        wait_until(outdated, self.seconds, "not seen with the current token", hint=hint)


def verify(runbook: Runbook, wanted: Mapping[Secret, Answer]) -> None:
    """Raise SmallkubeError unless the API server answers as ``wanted`` to each of these tokens."""
    tokens = {row.name: runbook.open(row) for row in wanted}
    with runbook.connect(runbook.inventory.primary) as primary:
        found = token_clients.attempt(primary, tokens)
    expected = {row.name: answer for row, answer in wanted.items()}
    wrong = {name: answer for name, answer in found.items() if answer != expected[name]}
    if wrong:
        hint = "run the same command again; inv tokens.status says more"
        words = ", ".join(f"{name} is {answer}, not {expected[name]}" for name, answer in wrong.items())
        raise SmallkubeError(f"the API server: {words}", hint=hint)


@dataclass(frozen=True)
class Row:
    """``since``: when the token was last changed (RFC 3339), by git history or, without it, by the file's date.

    ``clients``: client → "current", "previous" (the other of a rotation under way), "other", "?" (no master key here),
    or "restart needed".
    """

    user: str
    secret: str
    since: str
    days: int
    overlap: bool
    clients: dict[str, str]


def status(cluster: Cluster, found: Sequence[TokenClient], now: datetime) -> list[Row]:
    """One for each user whose token is there. Raises SmallkubeError when one can't be opened."""
    workspace, table = cluster.workspace, []
    keys, master = read_keys(workspace), read_master(workspace)
    for user, secret in policy.tokens(cluster.inventory).items():
        if secret.file not in keys.files:
            continue
        since, other = _since(workspace, secret.file), secret.staged_in(keys.files)
        versions = {"current": secret, **({"previous": other} if other else {})}
        words = None
        if master:
            words = {sha256(transaction.opened(keys, master, row)): word for word, row in versions.items()}
        clients = {f"{one.client}@{one.node}": _word(one, words) for one in found if one.user == user}
        stamp = since.isoformat(timespec="seconds")
        table.append(Row(user, secret.name, stamp, (now - since).days, other is not None, clients))
    return table


def _word(client: TokenClient, words: Mapping[str, str] | None) -> str:
    if client.sha256 == "-":
        return "restart needed"
    return "?" if words is None else words.get(client.sha256, "other")


def _since(workspace: Workspace, file: str) -> datetime:
    """A file that differs from what git has is as old as it is on disk."""
    if git.ask(workspace.keys_dir, "status", "--porcelain", "--", file) == "":
        committed = (git.ask(workspace.keys_dir, "log", "-1", "--format=%ct", "--", file) or "").strip()
        if committed.isdecimal():
            return datetime.fromtimestamp(int(committed), UTC)
    return datetime.fromtimestamp(int((workspace.keys_dir / file).stat().st_mtime), UTC)
