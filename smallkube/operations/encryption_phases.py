"""Where a rotation of the encryption key stands, and what follows, by the EncryptionConfiguration. Pure.

The first key encrypts, all of them decrypt (kubernetes.io/docs/tasks/administer-cluster/encrypt-data). Keys are called
key1, key2, …: the one with the higher number is the newer.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from smallkube.core.errors import UsageError
from smallkube.secrets.kinds import encryption_configuration

Key = tuple[str, str]
"""Name, and base64 of 32 bytes."""


class Phase(StrEnum):
    """Which keys there are, the encrypting one first."""

    ONE = "one key"
    ADDED = "the previous key encrypts, the new one decrypts"
    PROMOTED = "the new key encrypts, the previous one decrypts"


@dataclass(frozen=True)
class Configuration:
    """``keys`` in their order; ``resources`` are what is encrypted."""

    keys: tuple[Key, ...]
    resources: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Configuration(keys={[name for name, _ in self.keys]}, resources={self.resources})"

    @property
    def phase(self) -> Phase:
        """Raises UsageError when the keys are not such as a rotation leaves them."""
        numbers = [_number(name) for name, _ in self.keys]
        if len(numbers) == 1:
            return Phase.ONE
        if len(numbers) == 2 and None not in numbers and numbers[0] != numbers[1]:
            return Phase.ADDED if (numbers[0] or 0) < (numbers[1] or 0) else Phase.PROMOTED
        names = ", ".join(name for name, _ in self.keys)
        hint = (
            "inv keys.edit EncryptionConfiguration.yaml: leave one key, or two of which the newer has a higher number"
        )
        raise UsageError(f"can't tell where a rotation stands from the keys {names}", where=_WHERE, hint=hint)

    def with_new(self, secret: bytes) -> "Configuration":
        """A key of these 32 bytes is added after the current one."""
        name, _ = self.keys[0]
        following = f"key{(_number(name) or 0) + 1}"
        return Configuration((*self.keys, (following, base64.b64encode(secret).decode())), self.resources)

    def swapped(self) -> "Configuration":
        """The other key encrypts."""
        return Configuration((self.keys[1], self.keys[0]), self.resources)

    def first_only(self) -> "Configuration":
        """The key that encrypts is the only one."""
        return Configuration(self.keys[:1], self.resources)

    def covering(self, resources: Sequence[str]) -> "Configuration":
        """These resources, too: none is taken away, for what is encrypted must stay readable."""
        return Configuration(self.keys, tuple(dict.fromkeys((*self.resources, *resources))))

    def text(self) -> bytes:
        """The file."""
        return encryption_configuration(self.keys, self.resources)


_WHERE = "keys/EncryptionConfiguration.yaml.age"


def parse(plaintext: bytes) -> Configuration:
    """From a (valid) file; raises UsageError for one that is not as smallkube writes it."""
    import yaml

    parts: list[Any] = yaml.safe_load(plaintext)["resources"]
    boxes = [one["secretbox"]["keys"] for part in parts for one in part["providers"] if "secretbox" in one]
    kinds = {kind for part in parts for one in part["providers"] for kind in one}
    if len(parts) != 1 or len(boxes) != 1 or not kinds <= {"secretbox", "identity"}:
        hint = "rotate its keys manually"
        raise UsageError("has other providers or parts than smallkube writes", where=_WHERE, hint=hint)
    return Configuration(tuple((key["name"], key["secret"]) for key in boxes[0]), tuple(parts[0]["resources"]))


def _number(name: str) -> int | None:
    found = re.fullmatch(r"key(\d{1,9})", name, re.ASCII)
    return int(found[1]) if found else None
