"""How old each token is, whether it is being replaced, and which client uses which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smallkube.core import process
from smallkube.core.workspace import Workspace
from smallkube.kube.token_clients import TokenClient, sha256
from smallkube.kube.token_users import User
from smallkube.secrets import transaction
from smallkube.secrets.age import Master
from smallkube.secrets.transaction import Keys


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


def rows(
    workspace: Workspace,
    keys: Keys,
    users: Sequence[User],
    master: Master | None,
    found: Sequence[TokenClient],
    now: datetime,
) -> list[Row]:
    """One for each of ``users`` whose token is there. Raises SmallkubeError when one can't be opened."""
    table = []
    for user in users:
        if user.secret.file not in keys.files:
            continue
        since, other = _since(workspace, user.secret.file), user.secret.staged_in(keys.files)
        versions = {"current": user.secret, **({"previous": other} if other else {})}
        opened = {word: transaction.opened(keys, master, row) for word, row in versions.items()} if master else {}
        words = {sha256(token): word for word, token in opened.items()} if master else None
        clients = {f"{one.client}@{one.node}": _word(one, words) for one in found if one.user == user.short}
        stamp = since.isoformat(timespec="seconds")
        table.append(Row(user.short, user.secret.name, stamp, (now - since).days, other is not None, clients))
    return table


def _word(client: TokenClient, words: Mapping[str, str] | None) -> str:
    if client.sha256 == "-":
        return "restart needed"
    return "?" if words is None else words.get(client.sha256, "other")


def _since(workspace: Workspace, file: str) -> datetime:
    """A file that differs from what git has is as old as it is on disk."""
    if _git(workspace, "status", "--porcelain", "--", file) == "":
        committed = _git(workspace, "log", "-1", "--format=%ct", "--", file) or ""
        if committed.isdecimal():
            return datetime.fromtimestamp(int(committed), UTC)
    return datetime.fromtimestamp(int((workspace.keys_dir / file).stat().st_mtime), UTC)


def _git(workspace: Workspace, *arguments: str) -> str | None:
    """What git says, None when it can't be asked."""
    try:
        done = process.run(["git", "-C", workspace.keys_dir, *arguments], timeout=20)
    except process.NotStarted:
        return None
    return done.stdout.strip() if done.ok else None
