"""The one way in which checks of the Nix configuration start other programs: argv lists, time limits, no shell."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from smallkube.core.errors import SmallkubeError

DEFAULT_TIMEOUT = 120.0
"""Seconds after which a program is killed: 254 nodes evaluate in about ten on two cores."""


@dataclass(frozen=True)
class Result:
    """How a program ended; ``stopped`` when its time limit ended it."""

    status: int
    stdout: str
    stderr: str
    stopped: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 0 and not self.stopped


def find(program: str, *folders: str) -> str | None:
    """The program's path, from PATH, the folders of administration programs or ``folders``; None when absent."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *folders]))


def version(nix: str) -> tuple[int, int]:
    """Major and minor version of this ``nix``; (0, 0) when it does not say."""
    found = re.search(r"(\d+)\.(\d+)\S*$", run([nix, "--version"]).stdout.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Result:
    """Run ``argv`` to its end or its time limit, with ``environment`` added to a plain one.

    Raises SmallkubeError when the program can't be started.
    """
    words = [str(word) for word in argv]
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    try:
        done = subprocess.run(
            words,
            input=stdin.encode(),
            capture_output=True,
            timeout=timeout,
            env=inherited | {"LC_ALL": "C.UTF-8"} | dict(environment or {}),
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        return Result(124, _text(expired.stdout), _text(expired.stderr), stopped=True)
    except OSError as error:
        raise SmallkubeError(f"can't be started: {error.strerror}", where=words[0]) from error
    return Result(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def run_until(
    argv: Sequence[str | Path], marker: str, *, timeout: float, environment: Mapping[str, str] | None = None
) -> Result:
    """Run a program that does not end by itself until it says ``marker`` on standard error, then terminate it.

    Raises SmallkubeError when the program can't be started.
    """
    inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    try:
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=inherited | {"LC_ALL": "C.UTF-8"} | dict(environment or {}),
        )
    except OSError as error:
        raise SmallkubeError(f"can't be started: {error.strerror}", where=str(argv[0])) from error
    limit = Timer(timeout, process.kill)
    limit.start()
    lines: list[str] = []
    with _cancelled(limit), process:
        for line in process.stderr or ():
            lines.append(_text(line))
            if marker in lines[-1]:
                process.terminate()
                break
    return Result(process.returncode, "", "".join(lines), stopped=process.returncode == -signal.SIGKILL)


@contextmanager
def _cancelled(limit: Timer) -> Iterator[None]:
    """Cancel the timer at the end, however that comes."""
    try:
        yield
    finally:
        limit.cancel()
