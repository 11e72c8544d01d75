"""What the conformance suite of Kubernetes needs in the lab: its test program, and its images under upstream's names.

Upstream builds the images on Alpine; here their own programs come from the pinned module, all else from Debian's
packages. docs/conformance.md has the differences.
"""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab import containers, gobuild
from lab.command import run
from lab.containers import Image, add_file, file_system, write_images
from lab.programs import ProgramSet, Recipe
from lab.removal import remove_tree
from smallkube.core.errors import SmallkubeError

SOURCE = "k8s.io/kubernetes"
REGISTRY = "registry.k8s.io/e2e-test-images"
RECIPE = Recipe(
    "conformance",
    SOURCE,
    (
        ("e2e.test", "smallkube.lab/conformance/e2e.test"),
        ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        ("agnhost", f"{SOURCE}/test/images/agnhost"),
        ("nnp", f"{SOURCE}/test/images/nonewprivs"),
        ("sample-apiserver", "k8s.io/sample-apiserver"),
    ),
    ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion"),
)
ETCD = Recipe("etcd", "go.etcd.io/etcd/server/v3", (("etcd", "go.etcd.io/etcd/server/v3"),))
PACKAGES = ("busybox-static", "libc-bin", "bash", "bash-static", "bind9-dnsutils", "curl", "iproute2", "netcat-openbsd",
            "wget", "nginx")  # fmt: skip
NOT_NEEDED = ("debconf", "dpkg", "libperl", "mawk", "perl", "tar")
"""Beginnings of the names of packages that the others need for their installation only."""
LEFT_OUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/zoneinfo")
USERS = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\n"
    b"user-defined-in-image:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nwww-data:x:33:\nuser-defined-in-image:x:1000:\n"
    b"group-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
    "etc/wgetrc": b"tries = 1\n",
}
NGINX = """\
daemon off;
user root;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log off;
  server {
    listen 80;
    root /usr/share/nginx/html;
  }
}
"""
PAGE = "<html><body><h1>It works!</h1></body></html>\n"


def layer(files: Mapping[str, bytes | str], modes: Mapping[str, int] | None = None, links: Sequence[str] = ()) -> bytes:
    """A tar archive of ``files``, by default of mode 0644; ``links``: "NAME>TARGET"."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            add_file(
                tar, name, content.encode() if isinstance(content, str) else content, (modes or {}).get(name, 0o644)
            )
        for link in links:
            entry = tarfile.TarInfo(link.partition(">")[0])
            entry.type, entry.linkname = tarfile.SYMTYPE, link.partition(">")[2]
            tar.addfile(entry)
    return data.getvalue()


def images(
    names: Iterable[str], programs: Path, source: Path, tools: bytes, busybox: bytes, pause: bytes
) -> list[Image]:
    """Those among upstream's image ``names`` that can be made.

    ``programs``: the set's ``bin``; ``source``: the module k8s.io/kubernetes; ``tools`` and ``busybox``: layers.
    Raises SmallkubeError when one of them is not among ``names``: upstream renames images from minor to minor.
    """
    program = {name: (programs / name).read_bytes() for name, _ in (*RECIPE.programs[2:], *ETCD.programs)}
    tests = source / "test/images"
    agnhost_files = {
        f"localhost.{end}": (tests / f"agnhost/porter/localhost.{end}").read_bytes() for end in ("crt", "key")
    }
    agnhost = layer(
        {"agnhost": program["agnhost"], **agnhost_files, **USERS}, {"agnhost": 0o755}, ["agnhost-2>agnhost"]
    )
    pictures = tests / "nautilus/html"
    nautilus = layer({file.name: file.read_bytes() for file in sorted(pictures.iterdir())})
    nnp = layer({"usr/local/bin/nnp": program["nnp"]}, {"usr/local/bin/nnp": 0o6755})
    sample = layer({"sample-apiserver": program["sample-apiserver"]}, {"sample-apiserver": 0o755})
    etcd = layer({"usr/local/bin/etcd": program["etcd"]}, {"usr/local/bin/etcd": 0o755})
    nginx = layer({"etc/nginx/nginx.conf": NGINX, "usr/share/nginx/html/index.html": PAGE, **USERS})
    paused = layer({"pause": pause}, {"pause": 0o755})
    made: dict[str, tuple[Sequence[bytes], Sequence[str], Sequence[str], str]] = {
        f"{REGISTRY}/agnhost": ([tools, agnhost], ["pause"], ["/agnhost"], ""),
        f"{REGISTRY}/busybox": ([busybox], ["sh"], [], ""),
        f"{REGISTRY}/glibc-dns-testing": ([tools, layer(USERS)], ["bash"], [], ""),
        f"{REGISTRY}/nautilus": ([tools, agnhost, nautilus], ["test-webserver"], ["/agnhost"], ""),
        f"{REGISTRY}/nginx": ([tools, nginx], ["nginx"], [], ""),
        f"{REGISTRY}/nonewprivs": ([busybox, nnp], ["nnp"], [], ""),
        f"{REGISTRY}/nonroot": ([busybox], ["sh"], [], "1234"),
        f"{REGISTRY}/sample-apiserver": ([busybox, sample], [], ["/sample-apiserver"], ""),
        "registry.k8s.io/etcd": ([busybox, etcd], ["etcd"], [], ""),
        "registry.k8s.io/pause": ([paused], [], ["/pause"], "65535:65535"),
    }
    found = [Image(name, *made[short]) for name in sorted(set(names)) if (short := name.rpartition(":")[0]) in made]
    if unknown := made.keys() - {image.name.rpartition(":")[0] for image in found}:
        raise SmallkubeError(f"e2e.test names no {', '.join(sorted(unknown))}: upstream has other images now")
    return found


def tools(folder: Path) -> Path:
    """Unpack PACKAGES and what they need below the new ``folder``; returns the root file system.

    Their installation scripts don't run, and apt may not know that they are not installed: hence its empty status.
    """
    root, archives = folder / "root", folder / "archives"
    (archives / "partial").mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    (folder / "status").touch()
    options = {"Dir::State::status": folder / "status", "Dir::Cache::archives": archives, "Debug::NoLocking": "true"}
    set_options = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run(
        [
            "apt-get",
            "--quiet=2",
            *set_options,
            "--yes",
            "--no-install-recommends",
            "--download-only",
            "install",
            *PACKAGES,
        ]
    )
    for archive in sorted(archives.glob("*.deb")):
        if not archive.name.startswith(NOT_NEEDED):
            run(
                [
                    "sh",
                    "-c",
                    'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"',
                    "",
                    archive,
                    root,
                ]
            )
    for name in LEFT_OUT:
        remove_tree(root / name)
    busybox = root / "usr/bin/busybox"
    for command in run([busybox, "--list"]).split():
        link = root / "usr/bin" / command
        if not link.exists() and not (root / "usr/sbin" / command).exists():
            link.symlink_to("busybox")
    # Busybox's shell takes its own commands before those of the other packages.
    for name, target in {"nc": "nc.openbsd", "sh": "bash"}.items():
        (root / "usr/bin" / name).unlink(missing_ok=True)
        (root / "usr/bin" / name).symlink_to(target)
    for name in ("tmp", "uploads", "home", "root", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(0o1777 if name == "tmp" else 0o755)
    return root


def packed(root: Path) -> bytes:
    """A folder as a tar archive of files of root's, without times."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in sorted(root.iterdir()):
            tar.add(path, path.name, filter=plain)
    return data.getvalue()


def _finish(target: Path, builds: Sequence[gobuild.Build], go: gobuild.Go) -> None:
    """The images, in the folder ``images``."""
    source = Path(go.ask(builds[0], "list", "-m", "-f", "{{.Dir}}", SOURCE).strip())
    scratch = target / "scratch"
    try:
        root = tools(scratch)
        pause = scratch / "pause"
        run(["gcc", "-Os", "-s", "-static", "-o", pause, source / "build/pause/linux/pause.c"])
        # A test wants the words of busybox's /bin/sh. Another wants "sh" to keep variables such as data-1; Debian's
        # busybox drops them.
        shell = (root / "usr/bin/bash-static").read_bytes()
        busybox = file_system(root / "usr/bin/busybox", {"usr/local/bin/sh": shell})
        names = run([target / "bin/e2e.test", "--list-images"]).split()
        found = images(names, target / "bin", source, packed(root), busybox, pause.read_bytes())
    finally:
        remove_tree(scratch)
    write_images(target / "images", found)


SCRIPTS = (Path(__file__), Path(containers.__file__))
PROGRAMS = ProgramSet("conformance", "the conformance suite", (RECIPE, ETCD), finish=_finish, scripts=SCRIPTS)
