"""A node's system built by the Nix of the operator's machine, and its closure copied over our own connection."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from smallkube.core.errors import SmallkubeError
from smallkube.deploy.facts import SCRIPTS
from smallkube.nix import build
from smallkube.nix.bundle import Bundle, write_tree
from smallkube.remote.host import Command, Host, Result

AT_ONCE = 2
"""Builds at a time: each evaluates a whole system, which takes about a gigabyte."""
SILENCE_SECONDS = 3600
"""A build that prints nothing for so long is given up."""


class LocalBuild:
    """The build for one node; ``slots`` limits how many run at a time, ``end`` releases what it holds.

    Nix sees the bundle alone, in a private folder: the workspace itself holds the master key. The folder also keeps
    what was built from being garbage collected.
    """

    def __init__(self, bundle: Bundle, node: str, slots: threading.Semaphore, stopped: Callable[[], bool]) -> None:
        self.bundle, self.node, self.slots, self.stopped = bundle, node, slots, stopped
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._system = ""
        self._log: list[bytes] = []
        self._last_output = 0.0

    def build(self, on_stderr: Callable[[bytes], object]) -> Result:
        """Build; standard output is the system's store path, ``on_stderr`` gets the build's log.

        Raises UsageError when Nix is missing on this machine, SmallkubeError when stopped, or after SILENCE_SECONDS
        without output.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="smallkube-")
        tree = Path(self._folder.name).resolve() / "tree"
        write_tree(self.bundle.files, tree)

        def write(data: bytes) -> None:
            self._log.append(data)
            self._last_output = time.monotonic()
            on_stderr(data)

        while not self.slots.acquire(timeout=1):
            self._check()
        try:
            attribute = f"nixosConfigurations.{self.node}.config.system.build.toplevel"
            status = build.build(tree, attribute, write, self._check)
        finally:
            self.slots.release()
        if status == 0:
            self._system = str(build.result(tree).resolve())
        return Result(status, self._system.encode(), b"".join(self._log).decode(errors="replace"))

    def _check(self) -> None:
        """Raise SmallkubeError when it must not go on; called often."""
        if self.stopped():
            raise SmallkubeError("interrupted during the local build")
        if self._last_output and time.monotonic() - self._last_output > SILENCE_SECONDS:
            raise SmallkubeError(f"the local build printed nothing for {SILENCE_SECONDS} s")

    def copy(self, host: Host, step: Callable[[str], object]) -> None:
        """Copy the missing part of the closure; ``step`` gets how much that is.

        Raises SmallkubeError when the copy is interrupted; the paths that have arrived are complete.
        """
        paths = build.closure(self._system)
        missing = missing_paths(host, paths)
        step(f"copy the closure: {len(missing)} of {len(paths)} paths, {build.size(missing) / 1e6:.1f} MB")
        with build.exported(missing) as stream:
            command = SCRIPTS.pushed("import", self._system, timeout=SILENCE_SECONDS)
            done = host.run(command, stopped=self.stopped, source=stream)
            if not done.ok:
                raise SmallkubeError(f"the closure could not be copied: {done.last_line}")

    def end(self) -> None:
        """Remove the private folder; what was built may be garbage collected."""
        if self._folder:
            self._folder.cleanup()


def missing_paths(host: Host, paths: tuple[str, ...]) -> list[str]:
    """Those of ``paths`` that the machine does not have; whatever else it names is ignored."""
    argv = ("xargs", "-r", "nix-store", "--check-validity", "--print-invalid")
    stdin = "".join(f"{path}\n" for path in paths).encode()
    named = set(host.run_checked(Command(argv, stdin=stdin, timeout=300, title="missing paths")).text.split())
    return [path for path in paths if path in named]
