"""A node's system built by the Nix of the operator's machine, and its closure copied over our own connection."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import SCRIPTS
from smallkube.nix import build as nix
from smallkube.nix.bundle import Bundle, write_tree
from smallkube.remote.host import Command, Host, Result

AT_ONCE = 2
"""Builds at a time: each evaluates a whole system, which takes about a gigabyte."""
SILENCE_SECONDS = 3600
"""A build that prints nothing for so long is given up."""


def build(
    bundle: Bundle,
    node: str,
    folder: Path,
    slots: threading.Semaphore,
    stopped: Callable[[], bool],
    on_stderr: Callable[[bytes], object],
) -> Result:
    """Build; standard output is the system's store path, ``on_stderr`` gets the build's log.

    Nix sees the bundle alone, in a private ``folder``: the workspace itself holds the master key. As long as the folder
    is there, what was built is not garbage collected. ``slots`` limits how many builds run at a time.

    Raises UsageError when Nix is missing on this machine, SmallkubeError when stopped, or after SILENCE_SECONDS
    without output.
    """
    tree, log, last_output = folder.resolve() / "tree", bytearray(), 0.0
    write_tree(bundle.files, tree)

    def write(data: bytes) -> None:
        nonlocal last_output
        last_output = time.monotonic()
        log.extend(data)
        on_stderr(data)

    def check() -> None:
        if stopped():
            raise SmallkubeError("interrupted during the local build")
        if last_output and time.monotonic() - last_output > SILENCE_SECONDS:
            raise SmallkubeError(f"the local build printed nothing for {SILENCE_SECONDS} s")

    while not slots.acquire(timeout=1):
        check()
    try:
        status = nix.build(tree, f"nixosConfigurations.{node}.config.system.build.toplevel", write, check)
    finally:
        slots.release()
    system = "" if status else str(nix.result(tree).resolve())
    return Result(status, system.encode(), log.decode(errors="replace"))


def copy(host: Host, system: str, stopped: Callable[[], bool], step: Callable[[str], object]) -> None:
    """Copy the missing part of the closure of ``system``; ``step`` gets how much that is.

    Raises SmallkubeError when the copy is interrupted; the paths that have arrived are complete.
    """
    paths = nix.closure(system)
    missing = missing_paths(host, paths)
    step(f"copy the closure: {len(missing)} of {len(paths)} paths, {nix.size(missing) / 1e6:.1f} MB")
    with nix.exported(missing) as stream:
        command = SCRIPTS.pushed("import", system, timeout=SILENCE_SECONDS)
        done = host.run(command, stopped=stopped, source=stream)
        if not done.ok:
            raise SmallkubeError(f"the closure could not be copied: {done.last_line}")


def missing_paths(host: Host, paths: tuple[str, ...]) -> list[str]:
    """Those of ``paths`` that the machine does not have; whatever else it names is ignored."""
    argv = ("xargs", "-r", "nix-store", "--check-validity", "--print-invalid")
    stdin = "".join(f"{path}\n" for path in paths).encode()
    named = set(host.run_checked(Command(argv, stdin=stdin, timeout=300, title="missing paths")).text.split())
    return [path for path in paths if path in named]
