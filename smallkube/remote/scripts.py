"""Scripts that run on machines: arguments only in argv, data only on standard input, answers as one JSON object.

Each is preceded by ``remote/scripts/lib.sh``, which prints JSON and writes files as a whole.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from smallkube.core.errors import SmallkubeError
from smallkube.nix.bundle import Bundle
from smallkube.remote.command import Command
from smallkube.remote.host import Host

HOME = "/var/lib/smallkube"
"""What is pushed is in HOME/KIND/DIGEST; the five newest of each kind are kept."""
OUTPUT_LIMIT = 4 << 20
_OWN = Path(__file__).with_name("scripts")

T = TypeVar("T")

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class UnexpectedOutputError(SmallkubeError):
    """A script that failed, or whose output has another shape than expected."""


@dataclass(frozen=True)
class Scripts:
    """The scripts of one folder (``NAME.sh``)."""

    folder: Path

    @cached_property
    def bundle(self) -> Bundle:
        """All of them, as they are pushed once per version."""
        library = (_OWN / "lib.sh").read_bytes()
        return Bundle({file.name: library + file.read_bytes() for file in sorted(self.folder.glob("*.sh"))})

    def pushed(self, name: str, *arguments: str, title: str = "", timeout: float = 60.0, hold: bool = False) -> Command:
        """A script on a machine that has the bundle."""
        argv = ("/bin/sh", f"{HOME}/scripts/{self.bundle.digest}/{name}.sh", *arguments)
        return Command(argv, timeout=timeout, hold=hold, title=title or name)

    def sent(self, name: str, *arguments: str, title: str = "", timeout: float = 60.0) -> Command:
        """The same for a machine that need not have the bundle: the script is standard input.

        The braces make the shell read all of it first, so that no command of it reads the rest.
        """
        argv, text = ("/bin/sh", "-s", "--", *arguments), self.bundle.files[f"{name}.sh"]
        return Command(argv, stdin=b"{\n%s} </dev/null\n" % text, timeout=timeout, title=title or name)


def read(host: Host, command: Command, shape: type[T]) -> T:
    """The JSON that ``command`` prints, as a ``shape`` (a dataclass); members that it does not have are ignored.

    Raises UnexpectedOutputError, and SmallkubeError as ``Host.run``.
    """
    done = host.run(replace(command, limit=OUTPUT_LIMIT))
    if not done.ok:
        raise UnexpectedOutputError(f"{command.name} failed: {done.last_line}", where=host.where)
    try:
        found: T = _adapter(shape).validate_json(done.text, strict=True)
    except ValidationError as error:
        raise UnexpectedOutputError(f"unexpected output from {command.name}", where=host.where) from error
    return found


def push(host: Host, kind: str, bundle: Bundle) -> None:
    """Unpack ``bundle`` at HOME/``kind``/DIGEST, as a whole or not at all."""
    source, expected = (_OWN / "receive.sh").read_text(), hashlib.sha256(bundle.archive).hexdigest()
    argv = ("/bin/sh", "-c", source, "receive.sh", kind, bundle.digest, expected)
    host.run_checked(Command(argv, stdin=bundle.archive, timeout=120, title="receive"))
