"""The Go that builds Kubernetes for the lab: this machine's own where it is new enough, else fetched once.

Go's releases are modules like any other (golang.org/toolchain, see go.dev/doc/toolchain); the archive is accepted by
its checksum in the form of go.sum, as published by sum.golang.org.
"""

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from lab.command import waiting_lock
from lab.removal import remove_tree
from smallkube.cli.bar import Bar
from smallkube.core.errors import SmallkubeError

VERSION = "1.26.11"
LOCK = "go.lock"
SUMS = {
    "x86_64": ("amd64", "h1:KyINmJ/FQdKRmDYGuTAAXkumyeR2DyUlSNHZj7XaLFg="),
    "aarch64": ("arm64", "h1:GFS9FmglLJxMwOSuun3qb8tBjpr8ibzOkt8tBrRLrnk="),
}
"""Machine (uname -m) to Go's name for it and the checksum of its archive."""
DEFAULT_PROXY = "https://proxy.golang.org"
PROGRAMS = re.compile(r"bin/[^/]+|pkg/tool/.+")
"""What must be executable; archives of modules keep no modes."""
CHUNK = 1 << 20
HINT = "check the network and GOPROXY, or install Go yourself: go.dev/doc/install"


def ensure(cache: Path, oldest: tuple[int, ...], bar: Bar) -> Path:
    """The go program: this machine's if it is of version ``oldest`` or newer, else the one below ``cache``.

    Raises SmallkubeError when it can't be fetched or is not what its checksum says.
    """
    here = shutil.which("go")
    if here and version(here) >= oldest:
        return Path(here)
    folder = cache / f"go-{VERSION}"
    with waiting_lock(cache / LOCK):
        if not folder.is_dir():
            _fetch(folder, bar)
    return folder / "bin/go"


def version(go: str) -> tuple[int, ...]:
    """Version of a go program, such as (1, 26, 11); empty when unknown."""
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=environment)
    found = re.match(r"go([\d.]+)", done.stdout)
    return tuple(int(part) for part in found[1].strip(".").split(".")) if found else ()


def proxy(setting: str) -> str:
    """The first address of a Go module proxy in the text of GOPROXY (go.dev/ref/mod#environment-variables)."""
    listed = (entry.strip().rstrip("/") for entry in re.split(r"[,|]", setting))
    return next((entry for entry in listed if entry.startswith(("https://", "http://"))), DEFAULT_PROXY)


def _fetch(folder: Path, bar: Bar) -> None:
    if platform.machine() not in SUMS:
        raise SmallkubeError(f"there is no Go for {platform.machine()} to fetch", hint="go.dev/doc/install")
    system, wanted = SUMS[platform.machine()]
    name = f"v0.0.1-go{VERSION}.linux-{system}"
    address = f"{proxy(os.environ.get('GOPROXY', ''))}/golang.org/toolchain/@v/{name}.zip"
    work = Path(tempfile.mkdtemp(prefix="go-building-", dir=folder.parent))
    try:
        _download(address, work / "zip", bar)
        with zipfile.ZipFile(work / "zip") as archive:
            if (found := checksum(archive)) != wanted:
                raise SmallkubeError(f"{address} has the checksum {found} instead of {wanted}", hint=HINT)
            archive.extractall(work)
        tree = work / f"golang.org/toolchain@{name}"
        for path in tree.rglob("*"):
            if path.is_file() and PROGRAMS.fullmatch(str(path.relative_to(tree))):
                path.chmod(0o755)
        try:
            tree.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has just fetched it
                raise
    finally:
        remove_tree(work)


def _download(address: str, target: Path, bar: Bar) -> None:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, target.open("wb") as file:
            bar.stage(f"downloading Go {VERSION}", int(answer.headers["Content-Length"] or 0))
            while data := answer.read(CHUNK):
                file.write(data)
                bar.at(file.tell())
    except OSError as error:
        raise SmallkubeError(f"Go {VERSION} can't be fetched from {address}: {error}", hint=HINT) from error


def checksum(archive: zipfile.ZipFile) -> str:
    """A module archive's checksum as in go.sum: "h1:" and the hash of the list of its files' hashes, in base64.

    Source: golang.org/x/mod/sumdb/dirhash, Hash1.
    """
    listed = hashlib.sha256()
    for name in sorted(archive.namelist()):
        listed.update(f"{hashlib.sha256(archive.read(name)).hexdigest()}  {name}\n".encode())
    return f"h1:{base64.b64encode(listed.digest()).decode()}"
