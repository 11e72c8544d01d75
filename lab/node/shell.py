"""How the programs on a lab machine run others and say what goes wrong."""

import subprocess
import sys
from collections.abc import Sequence

Argv = Sequence[str]


def run(argv: Argv, *, stdin: str | None = None, quiet: bool = False) -> bool:
    """Run a program; its failure is reported (unless ``quiet``) and is not fatal. Returns whether it succeeded."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode and not quiet:
        message = (done.stderr or done.stdout).strip() or "no message"
        warn(f"{argv[0]} failed with status {done.returncode}: {message}")
    return done.returncode == 0


def output(argv: Argv) -> str:
    """A program's standard output; raises subprocess.CalledProcessError when it fails."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def warn(text: str) -> None:
    """Say something on standard error."""
    print(text, file=sys.stderr, flush=True)
