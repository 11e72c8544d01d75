"""The lab's only caller of other programs on this machine."""

import fcntl
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from smallkube.core.errors import SmallkubeError


def with_parent(argv: Iterable[object]) -> list[str]:
    """The same command, killed by the kernel when this process ends, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *(str(word) for word in argv)]


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program and return its standard output.

    Raises SmallkubeError with the last line of its output when it fails, or when it is missing.
    """
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=folder,
            env=environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise SmallkubeError(f"{argv[0]} can't be started: {error.strerror}", hint="see inv doctor") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SmallkubeError(f"{Path(argv[0]).name} failed with status {done.returncode}: {lines[-1]}")
    return done.stdout


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, waiting for the process that has it; the kernel drops it with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
