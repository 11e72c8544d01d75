"""Whose the tokens are, by the policy. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from smallkube.core.errors import UsageError
from smallkube.inventory.models import Inventory, Node
from smallkube.secrets import policy
from smallkube.secrets.policy import Client, Secret


@dataclass(frozen=True)
class User:
    """``name`` is the API server's; ``short`` is what an operator may type; ``secret`` holds the token."""

    name: str
    short: str
    secret: Secret


def all_users(inventory: Inventory) -> tuple[User, ...]:
    """Each user that has a token."""
    return tuple(User(row.user.name, row.user.short, row) for row in policy.secrets_of(inventory) if row.user)


def clients_on(inventory: Inventory, node: Node) -> dict[Client, str]:
    """The programs on ``node`` that use a token → short name of the user whose it is."""
    rows = (row for row in policy.secrets_of(inventory) if row.node == node.name)
    return {client: row.user.short for row in rows if row.user for client in row.user.clients}


def select(inventory: Inventory, names: Sequence[str], *, everybody: bool) -> tuple[User, ...]:
    """Those called so, or all. Raises UsageError on an unknown name, and when no user was named."""
    users = all_users(inventory)
    if everybody:
        return users
    known = {name: user for user in users for name in (user.short, user.name)}
    for name in names:
        if name not in known:
            raise UsageError(f"no user {name!r}", hint=f"there are {', '.join(user.short for user in users)}")
    if not names:
        raise UsageError("no user selected", hint="--user NAME (repeatable), or --all")
    return tuple(dict.fromkeys(known[name] for name in names))
