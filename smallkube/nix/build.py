"""A system built by the Nix of this machine, and its closure as a stream that `nix-store --import` takes."""

import os
import select
import subprocess  # logs and closures are passed on while they come
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError, split_lines
from smallkube.nix import flake

_CHUNK = 1 << 16
_POLL_SECONDS = 0.2
_TERMINATION_SECONDS = 10.0


def require_nix() -> tuple[str, str]:
    """Paths of nix and nix-store. Raises UsageError when this machine can't build."""
    nix, nix_store = process.find("nix"), process.find("nix-store")
    if nix is None or nix_store is None:
        raise UsageError("--build-on local: Nix is not installed here", hint="see `inv doctor`, or build on the target")
    flake.require_git(nix)
    return nix, nix_store


def build(tree: Path, attribute: str, on_stderr: Callable[[bytes], object], tick: Callable[[], None]) -> int:
    """Build ``attribute`` of the flake in TREE/nix; its exit status.

    ``result(tree)`` links to what was built and keeps it from being garbage collected. ``on_stderr`` gets the log as
    it comes; ``tick`` is called several times a second, and an exception of its ends the build.
    """
    nix, _ = require_nix()
    options = ("--no-write-lock-file", "--out-link", str(result(tree)))
    argv = [nix, *flake.FEATURES, "build", *options, f"{flake.url(nix, tree)}#{attribute}"]
    with _started(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as building:
        log = cast(IO[bytes], building.stderr)
        while True:
            tick()
            if select.select([log], [], [], _POLL_SECONDS)[0]:
                if not (data := os.read(log.fileno(), _CHUNK)):
                    return building.wait()
                on_stderr(data)


def result(tree: Path) -> Path:
    """Where ``build`` puts its link, beside the tree."""
    return tree.with_name("result")


def closure(system: str) -> tuple[str, ...]:
    """All store paths that ``system`` needs, itself among them."""
    return tuple(_query("-qR", system))


def size(paths: Sequence[str]) -> int:
    """The bytes that these store paths take."""
    return sum(map(int, _query("-q", "--size", *paths))) if paths else 0


def _query(*words: str) -> list[str]:
    _, nix_store = require_nix()
    done = process.run([nix_store, *words], environment=os.environ)
    if not done.ok:
        raise SmallkubeError(f"nix-store {words[0]} failed here: {done.stderr.strip()}")
    return split_lines(done.stdout)


@contextmanager
def exported(paths: Sequence[str]) -> Iterator[BinaryIO]:
    """The paths as `nix-store --export` gives them, in the order in which they can be imported.

    Raises SmallkubeError when they could not be had, rather than what the block made of that.
    """
    _, nix_store = require_nix()
    argv = [nix_store, "--export", *paths]
    with (
        tempfile.TemporaryFile() as errors,
        _started(argv, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as export,
    ):
        try:
            yield cast(BinaryIO, export.stdout)
        finally:
            if export.poll():
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()
                raise SmallkubeError(f"nix-store --export failed here: {words[-1] if words else export.returncode}")


@contextmanager
def _started(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block, with the operator's whole environment: it may configure Nix.

    Without ``start_new_session`` it gets the terminal's Ctrl-C itself, and ends even where we are aborted.
    """
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    with process.logged(argv[0]) as ended:
        with process.start(argv, stdin=subprocess.DEVNULL, env=environment, **options) as program:
            try:
                yield program
            finally:
                program.terminate()
                try:
                    program.wait(_TERMINATION_SECONDS)
                except subprocess.TimeoutExpired:
                    program.kill()
        ended(f"exit status {program.returncode}")
