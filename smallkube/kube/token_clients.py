"""What the machines say of tokens: whom the API server lets in, and which token each client has taken up."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smallkube.core.errors import SmallkubeError
from smallkube.inventory.models import Inventory, Node
from smallkube.remote import fleet
from smallkube.remote.command import Command
from smallkube.remote.host import Connect, Host

Answer = Literal["accepted", "refused", "unknown"]
_ANSWERS: dict[str, Answer] = {"accepted": "accepted", "refused": "refused"}
_SCRIPTS = Path(__file__).with_name("scripts")
NODE_CLIENTS = ("kubelet", "kube-proxy", "coredns")


@dataclass(frozen=True)
class TokenClient:
    """A client and the SHA-256 (hex) of the token it uses, "-" when it has not taken up its new file yet."""

    node: str
    client: str
    sha256: str

    @property
    def user(self) -> str:
        """The short name of the user as whom it comes."""
        return self.node if self.client in NODE_CLIENTS else self.client


def sha256(token: bytes) -> str:
    """The hash by which a token is spoken of."""
    return hashlib.sha256(token.strip()).hexdigest()


def attempt(primary: Host, tokens: Mapping[str, bytes]) -> dict[str, Answer]:
    """How the API server answers each of ``tokens`` (any name → token). They travel by standard input alone."""
    numbered = list(enumerate(tokens.values()))
    lines = b"".join(b"%d %s\n" % (number, token.strip()) for number, token in numbered)
    argv = ("/bin/sh", "-c", (_SCRIPTS / "try.sh").read_text(), "try")
    reply = primary.run_checked(Command(argv, stdin=lines, timeout=30 + 15 * len(tokens), title="try tokens"))
    found = dict(line.split(" ", 1) for line in reply.text.splitlines() if " " in line)
    return {name: _ANSWERS.get(found.get(str(number), ""), "unknown") for number, name in enumerate(tokens)}


def holders(inventory: Inventory, connect: Connect) -> tuple[list[TokenClient], dict[str, str]]:
    """What the clients of all nodes use; and node → why it could not be asked."""

    def ask(node: Node) -> list[TokenClient]:
        argv = ("/bin/sh", "-c", (_SCRIPTS / "holders.sh").read_text(), "holders")
        with connect(node) as machine:
            return parse_holders(node.name, machine.run_checked(Command(argv, title="tokens in use")).text)

    outcomes = fleet.run([inventory.nodes], ask)
    silent = {outcome.node.name: outcome.error.message for outcome in outcomes if outcome.error}
    return [holder for outcome in outcomes for holder in outcome.value or ()], silent


def parse_holders(node: str, text: str) -> list[TokenClient]:
    """From what ``holders.sh`` says; raises SmallkubeError."""
    try:
        return [TokenClient(node, *line.split(" ")) for line in text.splitlines()]
    except TypeError as error:
        raise SmallkubeError("the machine's answer can't be understood", where=node) from error


def behind(found: Sequence[TokenClient], wanted: Mapping[str, str]) -> list[str]:
    """Clients of users in ``wanted`` (short name → hash) that use another token."""
    return [f"{one.client} on {one.node}" for one in found if wanted.get(one.user, one.sha256) != one.sha256]
