"""Whose the tokens are, as the API server knows them (nix/modules/apiserver-tokens.nix). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from smallkube.core.errors import UsageError
from smallkube.inventory.models import Inventory
from smallkube.secrets import policy
from smallkube.secrets.policy import Kind, Secret

_SYSTEM = "kube_token_system_"
_TOKEN = "kube_token_"


@dataclass(frozen=True)
class User:
    """``name`` is the API server's; ``short`` is what a person may type; ``secret`` holds the token."""

    name: str
    short: str
    secret: Secret


def all_users(inventory: Inventory) -> tuple[User, ...]:
    """Everybody who has a token of his own."""
    tokens = (row for row in policy.secrets_of(inventory) if row.kind is Kind.TOKEN)
    return tuple(_user(inventory, row) for row in tokens)


def _user(inventory: Inventory, row: Secret) -> User:
    if row.name.startswith(_SYSTEM):
        component = row.name.removeprefix(_SYSTEM)
        return User(f"system:{component}", component, row)
    short = row.name.removeprefix(_TOKEN)
    if short == "root":
        return User("root", "root", row)
    return User(f"system:node:{inventory.addressing.node_host(inventory.node(short).index)}", short, row)


def select(inventory: Inventory, names: Sequence[str], *, everybody: bool) -> tuple[User, ...]:
    """Those called so, or all. Raises UsageError on an unknown name, and when nobody was named."""
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
