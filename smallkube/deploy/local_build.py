"""A machine's system built by the Nix of this machine, and its closure copied there over our own connection."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import BUILD_SECONDS, script
from smallkube.nix import build
from smallkube.nix.bundle import Bundle, write_tree
from smallkube.remote.command import Command, Result
from smallkube.remote.host import Host

AT_ONCE = 2
"""Builds at a time: each evaluates a whole system, which takes about a gigabyte."""
REFRESH_SECONDS = 60
_REFRESH = Command(("touch", "-c", "/run/smallkube/lock"))


def turns() -> threading.Semaphore:
    """What ``BuildHere`` takes as ``turn``."""
    return threading.BoundedSemaphore(AT_ONCE)


class BuildHere:
    """One machine's build; ``end`` lets go of it.

    Nix sees the bundle alone, in a private folder: the workspace itself holds the master key. The folder also keeps
    what was built from being garbage collected.
    """

    def __init__(self, bundle: Bundle, node: str, turn: threading.Semaphore) -> None:
        self.bundle, self.node, self.turn = bundle, node, turn
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._system = ""

    def build(self, session: Host, on_stderr: Callable[[bytes], object], stopped: Callable[[], bool]) -> Result:
        """As ``host.build``: standard output is the system's store path, ``on_stderr`` gets the build's log.

        Meanwhile the lock on the machine at the end of ``session`` is kept fresh. Raises UsageError when Nix is not
        here.
        """
        programs = build.programs()
        self._folder = tempfile.TemporaryDirectory(prefix="smallkube-")
        tree = Path(self._folder.name).resolve() / "tree"
        write_tree(self.bundle.files, tree)
        log: list[bytes] = []
        tick = _keep_lock_alive(session, stopped, log)

        def heard(data: bytes) -> None:
            log.append(data)
            on_stderr(data)

        attribute = f"nixosConfigurations.{self.node}.config.system.build.toplevel"
        with self._in_turn(tick):
            status = build.build(programs, tree, attribute, heard, tick)
        if status == 0:
            self._system = str(build.result(tree).resolve())
        return Result(status, self._system.encode(), b"".join(log).decode(errors="replace"))

    def copy(self, session: Host, told: Callable[[str], object], stopped: Callable[[], bool]) -> None:
        """Copy what the machine lacks of the closure; ``told`` hears how much that is.

        Raises SmallkubeError when it does not arrive; what did is whole.
        """
        programs = build.programs()
        paths = build.closure(programs, self._system)
        asked = script("lacking", stdin="".join(f"{path}\n" for path in paths).encode(), timeout=300)
        lacking = build.measured(programs, session.run_checked(asked).text.split())
        told(f"copy the closure: {lacking} of {len(paths)} paths")
        with build.exported(programs, lacking.paths) as stream:
            command = script("import", self._system, timeout=BUILD_SECONDS)
            done = session.run(command, stopped=stopped, source=stream)
            if not done.ok:
                raise SmallkubeError(f"the closure could not be copied: {done.last_line}")

    def end(self) -> None:
        """Remove the private folder; what was built may be garbage collected."""
        if self._folder:
            self._folder.cleanup()

    @contextmanager
    def _in_turn(self, tick: Callable[[], None]) -> Iterator[None]:
        while not self.turn.acquire(timeout=1):
            tick()
        try:
            yield
        finally:
            self.turn.release()


def _keep_lock_alive(session: Host, stopped: Callable[[], bool], log: list[bytes]) -> Callable[[], None]:
    """To be called often: refreshes the lock now and then.

    Raises SmallkubeError when ``stopped``, disconnected, or nothing came to ``log`` for BUILD_SECONDS.
    """
    refreshed = time.monotonic()
    lines, heard = 0, refreshed

    def tick() -> None:
        nonlocal refreshed, lines, heard
        now = time.monotonic()
        if stopped():
            raise SmallkubeError("interrupted while it was built here")
        if len(log) != lines:
            lines, heard = len(log), now
        if lines and now - heard > BUILD_SECONDS:
            raise SmallkubeError(f"the build here said nothing for {BUILD_SECONDS} s")
        if now - refreshed > REFRESH_SECONDS:
            session.run_checked(_REFRESH)
            refreshed = now

    return tick
