"""nix/flake.lock, which pins what every node builds: made or renewed by the Nix of this machine."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.nix import build
from smallkube.nix.evaluate import reason

FLAKE = "nix/flake.nix"
FLAKE_LOCK = "nix/flake.lock"
SECONDS = 600.0


def here(files: Mapping[str, bytes], *, update: bool) -> bytes:
    """The lock file for ``files`` (relative path → content: everything that Nix sees).

    ``update`` renews every input, else only what is missing is added. Nix gets to see flake.nix alone: it puts the
    folder of a flake into its store, which every user of this machine can read. Raises UsageError without Nix,
    SmallkubeError when it fails, which it does without network.
    """
    nix = process.find("nix")
    if nix is None:
        raise UsageError("Nix is not installed here", hint="see `inv doctor`, or let the first deploy do it")
    with tempfile.TemporaryDirectory(prefix="smallkube-") as folder:
        for name in (FLAKE, FLAKE_LOCK):
            if name in files:
                (Path(folder) / Path(name).name).write_bytes(files[name])
        flake = f"path:{folder}"
        action = _update(nix, flake) if update else ["lock", flake]
        argv = [nix, *build.FEATURES, "flake", *action]
        done = process.run(argv, timeout=SECONDS)
        if not done.ok:
            raise SmallkubeError(f"Nix could not pin the flake's inputs: {reason(done.stderr)}", where=FLAKE_LOCK)
        return (Path(folder) / "flake.lock").read_bytes()


def _update(nix: str, flake: str) -> list[str]:
    """Since Nix 2.19 `nix flake update` takes the flake as an option, and inputs as arguments."""
    return ["update", "--flake", flake] if build.version(nix) >= (2, 19) else ["update", flake]
