"""The disk that virtual machines of the lab start from, with Debian's kernel: made once from the image.

A folder of the cache has ``vmlinuz`` and ``disk.img``, over which each machine has a disk of its own (see lab/qemu.py).
Like the image it is made beside the final place and renamed when it is complete.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import image
from lab.command import waiting_lock
from lab.removal import remove_tree

SCRIPT = Path(__file__).with_name("build-disk.sh")
BOOT = Path(__file__).parent / "node/boot"
LOG, LOCK, BUILDING = "disk-build.log", "disk.lock", "disk-building-"
SIZE = "12G"
"""Of the file system; the file has holes where nothing is written yet."""


def place(cache: Path, programs: Sequence[Path]) -> Path:
    """Where the disk of machines with ``programs`` (folders of lab/kubernetes.py) is, or would be once made."""
    parts = [image.place(cache).name, *(folder.name for folder in programs), SIZE]
    parts += [file.read_text() for file in (SCRIPT, BOOT)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache / f"disk-{digest[:12]}"


def ensure(cache: Path, programs: Sequence[Path], say: Callable[[str], None]) -> Path:
    """The disk's folder; builds it over the image unless it is there (a minute). ``say`` gets each step.

    Raises SmallkubeError when the build fails.
    """
    root = image.ensure(cache, say)
    disk = place(cache, programs)
    if disk.is_dir():
        return disk
    with waiting_lock(cache / LOCK):
        for leftover in cache.glob(f"{BUILDING}*"):
            remove_tree(leftover)
        if not disk.is_dir():
            say("making the virtual machines' disk (once; about a minute)")
            folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=cache))
            try:
                lower = ":".join(map(str, (*reversed(programs), root)))
                image.run_script((SCRIPT, folder, lower, BOOT, SIZE), cache / LOG, say, "disk")
                folder.chmod(0o755)
                folder.rename(disk)
            finally:
                remove_tree(folder)
    return disk
