"""API tokens: which ones the API server accepts, and which one each client uses."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallkube.core.errors import SmallkubeError, split_lines
from smallkube.inventory.models import Inventory, Node
from smallkube.remote import fleet
from smallkube.remote.host import Connect, Host
from smallkube.remote.scripts import Scripts
from smallkube.secrets import policy
from smallkube.secrets.policy import Client

Answer = Literal["accepted", "refused", "unknown"]
_ANSWERS: dict[str, Answer] = {"accepted": "accepted", "refused": "refused"}
_SCRIPTS = Scripts(Path(__file__).with_name("scripts"))


@dataclass(frozen=True)
class TokenClient:
    """A client, the short name of its user, and the SHA-256 (hex) of the token it uses.

    Instead of the hash "-": it has not read its new file yet.
    """

    node: str
    client: str
    user: str
    sha256: str


def clients_on(inventory: Inventory, node: Node) -> dict[Client, str]:
    """The programs on ``node`` that use a token → short name of the user whose it is."""
    rows = (row for row in policy.secrets_of(inventory) if row.node == node.name)
    return {client: row.user.short for row in rows if row.user for client in row.user.clients}


def sha256(token: bytes) -> str:
    """The hash by which a token is spoken of."""
    return hashlib.sha256(token.strip()).hexdigest()


def attempt(primary: Host, tokens: Mapping[str, bytes]) -> dict[str, Answer]:
    """How the API server answers each of ``tokens`` (any name → token). They travel by standard input alone."""
    lines = b"".join(b"%d %s\n" % (number, token.strip()) for number, token in enumerate(tokens.values()))
    command = _SCRIPTS.sent("try", stdin=lines, timeout=30 + 15 * len(tokens), title="try tokens")
    reply = primary.run_checked(command)
    found = dict(line.split(" ", 1) for line in split_lines(reply.text) if " " in line)
    return {name: _ANSWERS.get(found.get(str(number), ""), "unknown") for number, name in enumerate(tokens)}


def in_use(inventory: Inventory, connect: Connect) -> tuple[list[TokenClient], dict[str, str]]:
    """What the clients of all nodes use; and node → why it could not be asked."""

    def ask(machine: Host) -> list[TokenClient]:
        clients = clients_on(inventory, machine.node)
        files = [word for client in clients for word in (client.name, client.file)]
        text = machine.run_checked(_SCRIPTS.sent("tokens-in-use", *files, title="tokens in use")).text
        return parse(machine.node.name, {client.name: user for client, user in clients.items()}, text)

    outcomes = fleet.ask(inventory.nodes, connect, ask)
    return [client for outcome in outcomes for client in outcome.value or ()], fleet.unanswered(outcomes)


def parse(node: str, users: Mapping[str, str], text: str) -> list[TokenClient]:
    """What ``tokens-in-use.sh`` printed; ``users``: client → short name. Raises SmallkubeError."""
    try:
        pairs = [line.split(" ") for line in split_lines(text)]
        return [TokenClient(node, client, users[client], sha256) for client, sha256 in pairs]
    except (ValueError, KeyError) as error:
        raise SmallkubeError("unexpected output from tokens-in-use.sh", where=node) from error


def outdated(found: Sequence[TokenClient], wanted: Mapping[str, str]) -> list[str]:
    """Clients of users in ``wanted`` (short name → hash) that use another token."""
    return [f"{one.client} on {one.node}" for one in found if wanted.get(one.user, one.sha256) != one.sha256]
