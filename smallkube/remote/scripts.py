"""Scripts that run on machines: arguments only in argv, data only on standard input, answers as one JSON object.

Each is preceded by ``remote/scripts/lib.sh``, which prints JSON and writes files as a whole, and by the lib.sh of its
own folder, if there is one.
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
from smallkube.remote.host import Command, Host

HOME = "/var/lib/smallkube"
"""What is pushed is in HOME/KIND/DIGEST; the five newest of each kind are kept."""
OUTPUT_LIMIT = 4 << 20
_LIBRARY = Path(__file__).with_name("scripts") / "lib.sh"

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
        files = {file.name: file.read_bytes() for file in sorted(self.folder.glob("*.sh"))}
        library = _LIBRARY.read_bytes() + files.pop(_LIBRARY.name, b"")
        return Bundle({name: library + content for name, content in files.items()})

    def text(self, name: str) -> str:
        """The script with what precedes it."""
        return self.bundle.files[f"{name}.sh"].decode()

    def pushed(self, name: str, *arguments: str, title: str = "", timeout: float = 60.0, hold: bool = False) -> Command:
        """A script on a machine that has the bundle."""
        argv = ("/bin/sh", f"{HOME}/scripts/{self.bundle.digest}/{name}.sh", *arguments)
        return Command(argv, timeout=timeout, hold=hold, title=title or name)

    def sent(
        self, name: str, *arguments: str, stdin: bytes | None = None, title: str = "", timeout: float = 60.0
    ) -> Command:
        """The same for a machine that need not have the bundle; ``timeout`` is in seconds of silence."""
        argv = ("/bin/sh", "-c", self.text(name), name, *arguments)
        return Command(argv, stdin=stdin, timeout=timeout, title=title or name)


_OWN = Scripts(Path(__file__).with_name("scripts"))


def read(host: Host, command: Command, shape: type[T]) -> T:
    """The JSON that ``command`` prints, as a ``shape`` (a dataclass); members that it does not have are ignored.

    Raises UnexpectedOutputError, and SmallkubeError as ``Host.run``.
    """
    done = host.run(replace(command, limit=OUTPUT_LIMIT))
    if not done.ok:
        raise UnexpectedOutputError(f"{command.name} failed: {done.last_line}", where=host.where)
    return parse(done.text, shape, command.name, host.where)


def parse(text: str | bytes, shape: type[T], name: str, where: str) -> T:
    """The JSON ``text`` that the script ``name`` printed, as a ``shape``. Raises UnexpectedOutputError."""
    try:
        found: T = _adapter(shape).validate_json(text, strict=True)
    except ValidationError as error:
        raise UnexpectedOutputError(f"unexpected output from {name}", where=where) from error
    return found


def push(host: Host, kind: str, bundle: Bundle) -> None:
    """Unpack ``bundle`` at HOME/``kind``/DIGEST, as a whole or not at all."""
    arguments = (kind, bundle.digest, hashlib.sha256(bundle.archive).hexdigest())
    host.run_checked(_OWN.sent("receive", *arguments, stdin=bundle.archive, timeout=120))
