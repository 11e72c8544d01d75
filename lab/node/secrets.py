"""Decrypts the configuration's secrets with the machine's host key, as agenix does (agenix: modules/age.nix).

They go into a generation of their own on a ramfs, which never reaches a disk; /run/agenix is flipped to it when all
were tried. As with agenix, one that can't be decrypted is reported and is then missing.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.node.files import owner
from lab.node.shell import run, warn

GENERATIONS = Path("/run/agenix.d")
CURRENT = Path("/run/agenix")


def decrypt(secrets: Mapping[str, Mapping[str, Any]], identity_paths: Sequence[str]) -> bool:
    """Make the next generation. Returns whether every secret could be decrypted."""
    if not secrets:
        return True
    GENERATIONS.mkdir(mode=0o751, exist_ok=True)
    if not os.path.ismount(GENERATIONS):
        run(["mount", "-t", "ramfs", "none", str(GENERATIONS), "-o", "nodev,nosuid,mode=0751"])
    before = sorted(int(path.name) for path in GENERATIONS.iterdir() if path.name.isdigit())
    generation = GENERATIONS / str((before[-1] if before else 0) + 1)
    generation.mkdir(mode=0o751)
    generation.chmod(0o751)
    identities = [word for path in identity_paths if Path(path).is_file() for word in ("--identity", path)]
    good = True
    for name, secret in secrets.items():
        good &= _decrypt(name, secret, identities, generation)
    flipped = CURRENT.with_name("agenix.new")
    flipped.unlink(missing_ok=True)
    flipped.symlink_to(generation)
    flipped.replace(CURRENT)
    for number in before:
        shutil.rmtree(GENERATIONS / str(number))
    return good


def _decrypt(name: str, secret: Mapping[str, Any], identities: Sequence[str], generation: Path) -> bool:
    # The file name in /run/agenix may differ from the attribute's; agenix calls it `name` too.
    target = generation / str(secret.get("name") or name)
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["age", "--decrypt", *identities, str(secret["file"])]
    with target.open("wb") as sink:
        target.chmod(0o600)
        done = subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        target.unlink()
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        warn(f"secret {name} can't be decrypted: {lines[0]}")
        return False
    shutil.chown(target, owner(str(secret.get("owner", "0"))), owner(str(secret.get("group", "0"))))
    target.chmod(int(str(secret.get("mode", "0400")), 8))
    return _place(Path(secret["path"]), target)


def _place(path: Path, target: Path) -> bool:
    """Links a secret that is wanted elsewhere than in /run/agenix."""
    if path.parent == CURRENT:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(CURRENT / target.name)
    fresh.replace(path)
    return True
