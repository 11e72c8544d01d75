"""A system built by the Nix of this machine, and its closure as a stream that `nix-store --import` takes."""

import os
import re
import subprocess  # logs and closures are passed on while they come
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError

FLAKE_FOLDER = "nix"
FEATURES = ("--extra-experimental-features", "nix-command flakes")
_POLL_SECONDS = 0.2
_TERMINATION_SECONDS = 10.0
_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
"""The operator's git configuration could change or leave out files."""


@dataclass(frozen=True)
class Programs:
    """Paths of the programs that a build needs."""

    nix: str
    nix_store: str


@dataclass(frozen=True)
class Paths:
    """Store paths, and the bytes that they take."""

    paths: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        return f"{len(self.paths)} path{'s' * (len(self.paths) != 1)}, {readable(self.size)}"


def programs() -> Programs:
    """Raises UsageError when this machine can't build."""
    nix, nix_store = process.find("nix"), process.find("nix-store")
    if nix is None or nix_store is None:
        raise UsageError("--build-on local: Nix is not installed here", hint="see `inv doctor`, or build on the target")
    _require_git(nix)
    return Programs(nix, nix_store)


def _require_git(nix: str) -> None:
    if not knows_folders(nix) and process.find("git") is None:
        raise UsageError("the Nix here is older than 2.19 and needs git", hint="install Nix 2.19 or newer, or git")


def flake_url(nix: str, tree: Path) -> str:
    """The flake in TREE/nix, with which this ``nix`` sees the whole tree. Raises UsageError when that needs git."""
    place = urllib.parse.quote(str(tree))
    if knows_folders(nix):
        return f"path:{place}?dir={FLAKE_FOLDER}"
    _require_git(nix)
    _track(tree)
    return f"git+file://{place}?dir={FLAKE_FOLDER}"


def knows_folders(nix: str) -> bool:
    """Whether it takes `path:TREE?dir=FOLDER`: 2.18 does not yet."""
    return version(nix) >= (2, 19)


def version(nix: str) -> tuple[int, int]:
    """Major and minor version of this ``nix``; (0, 0) when it does not say."""
    found = re.search(r"(\d+)\.(\d+)\S*$", process.run([nix, "--version"]).stdout.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def build(
    programs: Programs,
    tree: Path,
    attribute: str,
    on_stderr: Callable[[bytes], object],
    tick: Callable[[], None],
) -> int:
    """Build ``attribute`` of the flake in TREE/nix; its exit status.

    ``result(tree)`` links to what was built and keeps it from being garbage collected. ``on_stderr`` gets the log as
    it comes; ``tick`` is called several times a second, and an exception of its ends the build.
    """
    installable = f"{flake_url(programs.nix, tree)}#{attribute}"
    argv = [programs.nix, *FEATURES, "build", "--no-write-lock-file", "--out-link", str(result(tree)), installable]
    with _started(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as building:
        listener = threading.Thread(target=_pass_on, args=(building.stderr, on_stderr), daemon=True)
        listener.start()
        while building.poll() is None:
            tick()
            time.sleep(_POLL_SECONDS)
        listener.join()
        tick()
    return building.returncode


def result(tree: Path) -> Path:
    """Where ``build`` puts its link, beside the tree."""
    return tree.with_name("result")


def _track(tree: Path) -> None:
    """Make a git tree of it, of which an old Nix takes all files whose names are in the index."""
    for words in (("init", "--quiet"), ("add", "--all", "--force")):
        done = process.run(["git", "-C", tree, *words], environment=_GIT)
        if not done.ok:
            raise SmallkubeError(f"git {words[0]} failed: {done.stderr.strip()}")


def _pass_on(stream: BinaryIO, on_stderr: Callable[[bytes], object]) -> None:
    for line in stream:
        on_stderr(line)


def closure(programs: Programs, system: str) -> tuple[str, ...]:
    """All store paths that ``system`` needs, itself among them."""
    return tuple(_query(programs, ["-qR", system]))


def measured(programs: Programs, paths: Sequence[str]) -> Paths:
    """These paths, with what they take."""
    return Paths(tuple(paths), sum(int(line) for line in _query(programs, ["-q", "--size", *paths])) if paths else 0)


def _query(programs: Programs, words: Sequence[str]) -> list[str]:
    done = process.run([programs.nix_store, *words], environment=os.environ)
    if not done.ok:
        raise SmallkubeError(f"nix-store {words[0]} failed here: {done.stderr.strip()}")
    return done.stdout.splitlines()


@contextmanager
def exported(programs: Programs, paths: Sequence[str]) -> Iterator[BinaryIO]:
    """The paths as `nix-store --export` gives them, in the order in which they can be imported.

    Raises SmallkubeError when they could not be had, rather than what the block made of that.
    """
    argv = [programs.nix_store, "--export", *paths]
    with (
        tempfile.TemporaryFile() as errors,
        _started(argv, stdout=subprocess.PIPE, stderr=errors, new_session=True) as export,
    ):
        try:
            yield cast(BinaryIO, export.stdout)
        finally:
            if export.poll():
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()
                raise SmallkubeError(f"nix-store --export failed here: {words[-1] if words else export.returncode}")


@contextmanager
def _started(
    argv: Sequence[str], *, stdout: int | None = None, stderr: int | IO[bytes] | None = None, new_session: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block, with the operator's whole environment: it may configure Nix.

    Without ``new_session`` it gets the terminal's Ctrl-C itself, and ends even where we are aborted.
    """
    with process.logged(argv[0]) as ended:
        try:
            program = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
                start_new_session=new_session,
            )
        except OSError as error:
            raise process.NotStarted(f"can't be started: {error.strerror}", where=argv[0]) from error
        with program:
            try:
                yield program
            finally:
                _end(program)
        ended(f"exit status {program.returncode}")


def _end(program: subprocess.Popen[bytes]) -> None:
    program.terminate()
    try:
        program.wait(_TERMINATION_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()


def readable(size: int) -> str:
    """Bytes for people: ``12 B``, ``3.4 MB``."""
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
