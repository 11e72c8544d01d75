"""A machine as deploys see it: our scripts on it, and what it says of itself."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.nix.bundle import Bundle
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Host

HOME = "/var/lib/smallkube"
BUILD_SECONDS = 3600
"""A build that has said nothing for so long is given up."""
PROGRESS_SECONDS = 15
"""A connection that has not told for so long how an activation stands is given up for a new one."""
_SCRIPTS = Path(__file__).with_name("scripts")


@dataclass(frozen=True)
class HostFacts:
    """What ``look.sh`` found. Sizes in KiB, ``clock`` in seconds since 1970, ``deployed``: the last bundle."""

    has_bundle: bool
    has_scripts: bool
    host_key: str
    clock: int
    store_free: int
    state_free: int
    system: str
    profile: str
    generation: str
    deployed: str
    failed: frozenset[str]
    armed: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """What ``progress.sh`` found.

    ``begun`` is false where the machine knows nothing of this deploy, such as after a restart. ``status`` and
    ``rollback_status`` are switch-to-configuration's exit statuses once it has ended; ``outcome`` is what was decided:
    "confirmed", "rolled back", or "" as long as nothing is.
    """

    begun: bool
    status: int | None
    outcome: str
    rollback_status: int | None
    system: str
    failed: frozenset[str]
    log: str


@cache
def scripts() -> Bundle:
    """The shell scripts that run on machines."""
    return Bundle({file.name: file.read_bytes() for file in sorted(_SCRIPTS.glob("*.sh"))})


def script(
    name: str, *arguments: str, timeout: float = 60.0, stdin: bytes | None = None, hold: bool = False
) -> Command:
    """A script that was pushed."""
    path = f"{HOME}/scripts/{scripts().digest}/{name}.sh"
    return Command(("/bin/sh", path, *arguments), stdin=stdin, timeout=timeout, hold=hold, title=name)


def unpushed_script(name: str, *arguments: str, timeout: float = 60.0) -> Command:
    """A script that need not be there."""
    argv = ("/bin/sh", "-s", "--", *arguments)
    return Command(argv, stdin=scripts().files[f"{name}.sh"], timeout=timeout, title=name)


def look(session: Host, bundle: Bundle) -> HostFacts:
    """Read the machine; needs nothing of ours there."""
    return parse_look(session.run_checked(unpushed_script("look", bundle.digest, scripts().digest)).text)


def parse_look(text: str) -> HostFacts:
    """Raises SmallkubeError when the machine is not a NixOS machine."""
    found = _pairs(text.splitlines())
    if not found.get("system", "").startswith("/nix/store/"):
        raise SmallkubeError("not a NixOS machine: it has no /run/current-system")
    return HostFacts(
        has_bundle=found.get("bundle") == "yes",
        has_scripts=found.get("scripts") == "yes",
        host_key=found.get("host_key", ""),
        clock=_number(found.get("time")) or 0,
        store_free=_number(found.get("store_free_kib")) or 0,
        state_free=_number(found.get("state_free_kib")) or 0,
        system=found["system"],
        profile=found.get("profile", ""),
        generation=found.get("generation", ""),
        deployed=found.get("deployed", ""),
        failed=frozenset(found.get("failed", "").split()),
        armed=tuple(found.get("armed", "").split()),
    )


def push(session: Host, kind: str, bundle: Bundle) -> None:
    """Unpack ``bundle`` at HOME/``kind``/DIGEST, as a whole or not at all."""
    archive = bundle.archive
    expected = hashlib.sha256(archive).hexdigest()
    source = scripts().files["receive.sh"].decode()
    command = ("/bin/sh", "-c", source, "receive.sh", kind, bundle.digest, expected)
    session.run_checked(Command(command, stdin=archive, timeout=120, title="receive"))


def progress(session: Host, nonce: str) -> Progress:
    """How the activation of this deploy stands."""
    return parse_progress(session.run_checked(script("progress", nonce, timeout=PROGRESS_SECONDS)).text)


def parse_progress(text: str) -> Progress:
    head, _, log = text.partition("\n\n")
    found = _pairs(head.splitlines())
    return Progress(
        begun=found.get("begun") == "yes",
        status=_number(found.get("status")),
        outcome=found.get("outcome", ""),
        rollback_status=_number(found.get("rollback")),
        system=found.get("system", ""),
        failed=frozenset(found.get("failed", "").split()),
        log=log,
    )


def build(session: Host, bundle: Bundle, on_stderr: Callable[[bytes], object], stopped: Callable[[], bool]) -> Result:
    """Build the machine's system; standard output is its store path, ``on_stderr`` gets the build's log.

    The build ends with the connection, and when ``stopped`` becomes true.
    """
    command = script("build", bundle.digest, session.node.name, timeout=BUILD_SECONDS, hold=True)
    return session.run(command, on_stderr=on_stderr, stopped=stopped)


def _pairs(lines: list[str]) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition("=") for line in lines)}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None
