"""The root file system all lab machines share (read-only): Debian with systemd, sshd, Nix, etcd and the like.

It is made once per recipe, beside the final place, and renamed when it is complete: an interrupted build leaves
nothing that could be taken for an image.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.command import run, waiting_lock, with_parent
from lab.removal import remove_tree
from smallkube.core.errors import SmallkubeError, UsageError

SUITE = "trixie"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SCRIPT, IN_ROOT = (Path(__file__).with_name(name) for name in ("build-image.sh", "packages.sh"))
LOG, LOCK = "image-build.log", "image.lock"
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "libnss-systemd",
    "libnss-resolve",
    "dbus",
    "kmod",
    "procps",
    "util-linux",
    "openssh-server",
    "sudo",
    "ca-certificates",
    "curl",
    "jq",
    "python3",
    "openssl",
    "age",
    "nix-bin",
    "etcd-server",
    "etcd-client",
    "nftables",
    "iptables",
    "wireguard-tools",
    "wireguard-go",
    "iproute2",
    "iputils-ping",
    "bridge-utils",
    "bind9-dnsutils",
    "containernetworking-plugins",
    "conmon",
    "crun",
    "skopeo",
    "conntrack",
    "ethtool",
    "busybox-static",
    "zstd",
]
NEEDED_HERE = ("debootstrap", "unshare", "apt-config")
REACHING_THE_MIRROR = re.compile(r"^Acquire::(https?|Check-|Force|Retries|Max-)")


def recipe() -> str:
    """Names the image: the same recipe gives the same name, whatever the mirror."""
    parts = [SUITE, *PACKAGES, SCRIPT.read_text(), IN_ROOT.read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def mirror(index_targets: str) -> str:
    """The Debian archive among apt's repository addresses (one a line), or the default one."""
    for address in index_targets.split():
        if re.fullmatch(r"https?://\S+/debian/?", address):
            return address.rstrip("/")
    return DEFAULT_MIRROR


def place(cache: Path) -> Path:
    """Where the image is, or would be once made."""
    return cache / f"image-{recipe()}"


def ensure(cache: Path, say: Callable[[str], None]) -> Path:
    """The image's folder; builds it when it is not there yet (about a minute). ``say`` gets each step.

    Raises UsageError when a program for building is missing, SmallkubeError when the build fails.
    """
    image = place(cache)
    if image.is_dir():
        return image
    with waiting_lock(cache / LOCK):
        for leftover in cache.glob("building-*"):
            remove_tree(leftover)
        if not image.is_dir():
            _build(image, say)
    return image


def _build(image: Path, say: Callable[[str], None]) -> None:
    missing = [name for name in NEEDED_HERE if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise UsageError(
            f"the lab's image needs {', '.join(missing)}" if missing else "the lab needs root",
            hint=f"apt-get install {' '.join(missing)}" if missing else "run the same command as root",
        )
    say("making the machines' image (once; about a minute)")
    folder = Path(tempfile.mkdtemp(prefix="building-", dir=image.parent))
    root = folder / "root"
    try:
        words = (SCRIPT, root, SUITE, mirror(_apt_repositories()), KEYRING, *PACKAGES)
        run_script(words, image.parent / LOG, say, "image")
        root.chmod(0o755)
        root.rename(image)
    finally:
        remove_tree(folder)


def run_script(words: Sequence[object], log: Path, say: Callable[[str], None], what: str) -> None:
    """Run a script of the lab, in mount and process namespaces of its own, with apt's settings on its standard input.

    Its output goes to ``log``; ``say`` gets each of its steps, after ``what`` it makes. It ends with this process.
    Raises SmallkubeError when it fails.
    """
    apart = ["unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv = [*apart, "sh", *words]
    with log.open("w") as sink:
        process = subprocess.Popen(
            with_parent(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdin and process.stdout
        try:
            process.stdin.write(_apt_settings())
            process.stdin.close()
            for line in process.stdout:
                sink.write(line)
                if line.startswith("step: "):
                    say(f"{what}: {line.removeprefix('step: ').strip()}")
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if status:
        last = (log.read_text().strip().splitlines() or ["no message"])[-1]
        raise SmallkubeError(f"the {what} could not be made: {last}", hint=f"the whole output is in {log}")


def _apt_repositories() -> str:
    return run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])


def _apt_settings() -> str:
    lines = run(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in lines if REACHING_THE_MIRROR.match(line))
