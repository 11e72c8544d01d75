"""What a row of the table of secrets (policy.py) consists of: the kind of the secret, and the user that it is for."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a secret holds; decides how it is generated, how it is validated and which command rotates it."""

    rotated_by: str

    def __new__(cls, text: str, rotated_by: str) -> "Kind":
        kind = str.__new__(cls, text)
        kind._value_, kind.rotated_by = text, rotated_by
        return kind

    WIREGUARD = "WireGuard private key", "inv keys.rotate-wireguard && inv deploy"
    TOKEN = "API token", "inv tokens.rotate --all"
    ENCRYPTION = "EncryptionConfiguration", "inv encryption.rotate"
    SERVING_KEY = "private key with certificate", "inv keys.rotate-certificates --all"
    SIGNING_KEY = "private key", "inv keys.rotate-issuer"
    PERSON_KEY = "a person's private key", "inv users.add NAME --new-key"


@dataclass(frozen=True)
class Client:
    """A program that uses a token, on the node that the token belongs to.

    ``file`` is where it has the token from: a path, or ``%d/NAME``, a credential of the systemd unit ``name``.
    """

    name: str
    file: str


@dataclass(frozen=True)
class User:
    """A user of the API server: ``name`` and ``groups`` as it knows them; ``short`` is what an operator may type."""

    name: str
    short: str
    groups: tuple[str, ...] = ()
    clients: tuple[Client, ...] = ()
