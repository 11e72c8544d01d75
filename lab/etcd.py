"""Where etcd's programs are on this machine, for drills: in what was built or fetched for the lab's machines.

`python -m lab.etcd` prints the folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from lab import image, kubernetes
from lab.places import Places


def folders(cache: Path) -> Iterator[Path]:
    """Folders with etcd, etcdctl and etcdutl, newest first; what else is there need not run on this machine."""
    if built := kubernetes.built(cache):
        yield built / kubernetes.PREFIX / "bin"
    debian = image.place(cache)
    if debian.is_dir():
        yield debian / "usr/bin"


if __name__ == "__main__":
    print(next(folders(Places.find(os.environ).cache)))  # noqa: T201
