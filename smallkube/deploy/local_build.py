"""A node's system built by the Nix of the operator's machine, and its closure copied over our own connection."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import SCRIPTS
from smallkube.nix import build
from smallkube.nix.bundle import Bundle, write_tree
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Host

AT_ONCE = 2
"""Builds at a time: each evaluates a whole system, which takes about a gigabyte."""
SILENCE_SECONDS = 3600
"""A build that prints nothing for so long is given up."""
REFRESH_SECONDS = 60
_REFRESH = Command(("touch", "-c", "/run/smallkube/lock"))


class LocalBuild:
    """The build for one node; ``slots`` limits how many run at a time, ``end`` releases what it holds.

    Nix sees the bundle alone, in a private folder: the workspace itself holds the master key. The folder also keeps
    what was built from being garbage collected.
    """

    def __init__(self, bundle: Bundle, node: str, slots: threading.Semaphore) -> None:
        self.bundle, self.node, self.slots = bundle, node, slots
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._system = ""

    def build(self, host: Host, on_stderr: Callable[[bytes], object], stopped: Callable[[], bool]) -> Result:
        """Build; standard output is the system's store path, ``on_stderr`` gets the build's log.

        Meanwhile the lock on ``host`` is kept alive. Raises UsageError when Nix is missing on this machine.
        """
        programs = build.programs()
        self._folder = tempfile.TemporaryDirectory(prefix="smallkube-")
        tree = Path(self._folder.name).resolve() / "tree"
        write_tree(self.bundle.files, tree)
        log: list[bytes] = []
        tick = _keep_lock_alive(host, stopped, log)

        def write(data: bytes) -> None:
            log.append(data)
            on_stderr(data)

        attribute = f"nixosConfigurations.{self.node}.config.system.build.toplevel"
        with self._slot(tick):
            status = build.build(programs, tree, attribute, write, tick)
        if status == 0:
            self._system = str(build.result(tree).resolve())
        return Result(status, self._system.encode(), b"".join(log).decode(errors="replace"))

    def copy(self, host: Host, step: Callable[[str], object], stopped: Callable[[], bool]) -> None:
        """Copy the missing part of the closure; ``step`` gets how much that is.

        Raises SmallkubeError when the copy is interrupted; the paths that have arrived are complete.
        """
        programs = build.programs()
        paths = build.closure(programs, self._system)
        missing = build.measured(programs, missing_paths(host, paths))
        step(f"copy the closure: {missing} of {len(paths)} paths")
        with build.exported(programs, missing.paths) as stream:
            command = SCRIPTS.pushed("import", self._system, timeout=SILENCE_SECONDS)
            done = host.run(command, stopped=stopped, source=stream)
            if not done.ok:
                raise SmallkubeError(f"the closure could not be copied: {done.last_line}")

    def end(self) -> None:
        """Remove the private folder; what was built may be garbage collected."""
        if self._folder:
            self._folder.cleanup()

    @contextmanager
    def _slot(self, tick: Callable[[], None]) -> Iterator[None]:
        while not self.slots.acquire(timeout=1):
            tick()
        try:
            yield
        finally:
            self.slots.release()


def missing_paths(host: Host, paths: tuple[str, ...]) -> list[str]:
    """Those of ``paths`` that the machine does not have; whatever else it names is ignored."""
    argv = ("xargs", "-r", "nix-store", "--check-validity", "--print-invalid")
    stdin = "".join(f"{path}\n" for path in paths).encode()
    named = set(host.run_checked(Command(argv, stdin=stdin, timeout=300, title="missing paths")).text.split())
    return [path for path in paths if path in named]


def _keep_lock_alive(host: Host, stopped: Callable[[], bool], log: list[bytes]) -> Callable[[], None]:
    """To be called often: refreshes the lock every REFRESH_SECONDS.

    Raises SmallkubeError when ``stopped``, disconnected, or nothing came to ``log`` for SILENCE_SECONDS.
    """
    refreshed = time.monotonic()
    lines, last_output = 0, refreshed

    def tick() -> None:
        nonlocal refreshed, lines, last_output
        now = time.monotonic()
        if stopped():
            raise SmallkubeError("interrupted during the local build")
        if len(log) != lines:
            lines, last_output = len(log), now
        if lines and now - last_output > SILENCE_SECONDS:
            raise SmallkubeError(f"the local build printed nothing for {SILENCE_SECONDS} s")
        if now - refreshed > REFRESH_SECONDS:
            host.run_checked(_REFRESH)
            refreshed = now

    return tick
