"""A machine as deploys see it: our scripts on it, and what it says of itself."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from smallkube.errors import SmallkubeError
from smallkube.remote.bundle import Bundle
from smallkube.remote.command import Command, Result
from smallkube.remote.connection import Session

HOME = "/var/lib/smallkube"
_SCRIPTS = Path(__file__).with_name("scripts")


@dataclass(frozen=True)
class Look:
    """What ``look.sh`` found. Sizes in KiB, ``clock`` in seconds since 1970."""

    has_bundle: bool
    has_scripts: bool
    host_key: str
    clock: int
    store_free: int
    state_free: int
    system: str
    profile: str
    generation: str
    failed: frozenset[str]
    armed: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """What ``progress.sh`` found. ``status`` is switch-to-configuration's exit status once it has ended."""

    status: int | None
    outcome: str
    rollback_status: int | None
    unit: str
    system: str
    failed: frozenset[str]
    log: str


@cache
def scripts() -> Bundle:
    """The shell scripts that run on machines."""
    return Bundle({file.name: file.read_bytes() for file in sorted(_SCRIPTS.glob("*.sh"))})


def script(name: str, *arguments: str, timeout: float = 60.0, stdin: bytes | None = None) -> Command:
    """A script that was pushed."""
    path = f"{HOME}/scripts/{scripts().digest}/{name}.sh"
    return Command(("/bin/sh", path, *arguments), stdin=stdin, timeout=timeout)


def look(session: Session, bundle: Bundle) -> Look:
    """Read the machine; needs nothing of ours there."""
    source = scripts().files["look.sh"]
    arguments = (bundle.digest, scripts().digest)
    return parse_look(session.must(Command(("/bin/sh", "-s", "--", *arguments), stdin=source)).text)


def parse_look(text: str) -> Look:
    """Raises SmallkubeError when the machine is not a NixOS machine."""
    found = _pairs(text.splitlines())
    if not found.get("system", "").startswith("/nix/store/"):
        raise SmallkubeError("not a NixOS machine: it has no /run/current-system")
    return Look(
        has_bundle=found.get("bundle") == "yes",
        has_scripts=found.get("scripts") == "yes",
        host_key=found.get("host_key", ""),
        clock=_number(found.get("time")) or 0,
        store_free=_number(found.get("store_free_kib")) or 0,
        state_free=_number(found.get("state_free_kib")) or 0,
        system=found["system"],
        profile=found.get("profile", ""),
        generation=found.get("generation", ""),
        failed=frozenset(found.get("failed", "").split()),
        armed=tuple(found.get("armed", "").split()),
    )


def push(session: Session, kind: str, bundle: Bundle) -> None:
    """Unpack ``bundle`` at HOME/``kind``/DIGEST, as a whole or not at all."""
    archive = bundle.archive
    expected = hashlib.sha256(archive).hexdigest()
    source = scripts().files["receive.sh"].decode()
    command = ("/bin/sh", "-c", source, "receive.sh", kind, bundle.digest, expected)
    session.must(Command(command, stdin=archive, timeout=120))


def progress(session: Session, nonce: str) -> Progress:
    """How the activation of this deploy stands."""
    return parse_progress(session.must(script("progress", nonce)).text)


def parse_progress(text: str) -> Progress:
    head, _, log = text.partition("\n\n")
    found = _pairs(head.splitlines())
    return Progress(
        status=_number(found.get("status")),
        outcome=found.get("outcome", ""),
        rollback_status=_number(found.get("rollback")),
        unit=found.get("unit", ""),
        system=found.get("system", ""),
        failed=frozenset(found.get("failed", "").split()),
        log=log,
    )


def build(session: Session, bundle: Bundle, said: Callable[[bytes], object]) -> Result:
    """Build the machine's system; standard output is its store path, ``said`` gets the build's log."""
    return session.run(script("build", bundle.digest, session.node.name, timeout=3600), said=said)


def _pairs(lines: list[str]) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition("=") for line in lines)}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
