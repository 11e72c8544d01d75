"""The lab's own programs and stand-ins, laid over the image for each lab: a change of them needs no new image.

``/opt/smallkube-lab`` on a machine has ``nix`` (the stand-in for nixpkgs), ``bin`` and ``lib`` (what applies a
configuration) and ``pkgs/NAME/bin``, where a package of nixpkgs finds its programs: links to Debian's.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import containers, kubernetes, standins

PREFIX = Path("opt/smallkube-lab")
HERE = Path(__file__).parent
PROGRAMS = (
    "activate",
    "build-system",
    "factory.nix",
    "init",
    "lab-crun",
    "lab-pinns",
    "lab-queue",
    "lab-wireguard",
    "switch-to-configuration",
)
COMMANDS = ("nixos-rebuild", "lab-report")

DEBIAN: Mapping[str, Sequence[str]] = {
    "age": ["age"],
    "bash": ["bash"],
    "bashInteractive": ["bash"],
    "bind": ["bind9-dnsutils", "bind9-host"],
    "bridge-utils": ["bridge-utils"],
    "cni-plugins": ["containernetworking-plugins"],
    "conmon": ["conmon"],
    "conntrack-tools": ["conntrack"],
    "coreutils": ["coreutils"],
    "crun": ["crun"],
    "curl": ["curl"],
    "diffutils": ["diffutils"],
    "dnsutils": ["bind9-dnsutils", "bind9-host"],
    "dig": ["bind9-dnsutils"],
    "etcd": ["etcd-server", "etcd-client"],
    "ethtool": ["ethtool"],
    "findutils": ["findutils"],
    "gawk": ["mawk"],
    "getent": ["libc-bin"],
    "gnugrep": ["grep"],
    "gnused": ["sed"],
    "gnutar": ["tar"],
    "gzip": ["gzip"],
    "hostname": ["hostname"],
    "iproute2": ["iproute2"],
    "iputils": ["iputils-ping"],
    "jq": ["jq"],
    "kmod": ["kmod"],
    "mount": ["mount"],
    "nettools": ["hostname"],
    "nftables": ["nftables"],
    "nix": ["nix-bin"],
    "openssh": ["openssh-client", "openssh-server"],
    "openssl": ["openssl"],
    "procps": ["procps"],
    "python3": ["python3-minimal"],
    "shadow": ["passwd", "login"],
    "sudo": ["sudo"],
    "systemd": ["systemd", "systemd-resolved", "systemd-sysv", "udev"],
    "umount": ["mount"],
    "util-linux": ["util-linux", "mount", "login"],
    "wireguard-go": ["wireguard-go"],
    "wireguard-tools": ["wireguard-tools"],
    "zstd": ["zstd"],
}
"""Package of nixpkgs to Debian packages; one that isn't named here has no programs in the lab."""

OWN: Mapping[str, Mapping[str, str]] = {
    "bash": {"sh": "/usr/bin/sh"},
    "bashInteractive": {"sh": "/usr/bin/sh"},
    "coreutils": {"kill": "/usr/bin/kill"},
    "gawk": {"awk": "/usr/bin/mawk"},
    "nixos-rebuild": {"nixos-rebuild": "/usr/local/bin/nixos-rebuild"},
    "systemd": {"resolvectl": "/usr/bin/resolvectl"},
}
BUILT: Mapping[str, Sequence[str]] = {
    "coredns": ["coredns"],
    "cri-o": ["crio", "pinns"],
    "etcd": ["etcd", "etcdctl", "etcdutl"],
    "kubernetes": list(kubernetes.KUBERNETES),
}
"""Package of nixpkgs to the programs of lab/kubernetes.py, which take the place of Debian's."""

IPTABLES = [f"{family}{program}" for family in ("iptables", "ip6tables") for program in ("", "-restore", "-save")]
BESIDE_CRIO = {
    "conmon": "/usr/bin/conmon",
    "crun": f"/{PREFIX}/bin/lab-crun",
    "nsenter": "/usr/bin/nsenter",
    "pinns": f"/{PREFIX}/bin/lab-pinns",
    **{name: f"/usr/sbin/{name}" for name in IPTABLES},
}
"""What nixpkgs wraps into CRI-O's PATH, and what stands before CRI-O's own."""

BIN_FOLDERS = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/lib/cni")


def programs(file_list: str) -> dict[str, str]:
    """Name to path of each program in a dpkg file list (``/var/lib/dpkg/info/*.list``)."""
    paths = (Path(line) for line in file_list.splitlines())
    return {path.name: str(path) for path in paths if str(path.parent) in BIN_FOLDERS}


def make(layer: Path, image: Path, *, with_kubernetes: bool = False, repository_lab: Path = HERE) -> None:
    """Write the layer's files into the new folder ``layer``, for machines of ``image``.

    ``with_kubernetes``: the disks are also layered over a folder of lab/kubernetes.py, whose programs are linked.
    """
    prefix = layer / PREFIX
    skip = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
    shutil.copytree(repository_lab / "nix", prefix / "nix", ignore=skip)
    for nixos, minor in standins.RELEASES.items():
        standins.write(prefix / "nixpkgs" / nixos, nixos, minor, repository_lab / "nix")
    for minor in standins.MINORS:
        standins.write(prefix / "kubernetes-nixpkgs" / minor, standins.OWN, minor, repository_lab / "nix")
    shutil.copytree(repository_lab / "node", prefix / "lib" / "lab" / "node", ignore=skip)
    (prefix / "lib" / "lab" / "__init__.py").touch()
    commands = layer / "usr/local/bin"
    for folder in (prefix / "bin", commands):
        folder.mkdir(parents=True)
    for name in PROGRAMS:
        (prefix / "bin" / name).symlink_to(f"../lib/lab/node/{name}")
    for name in COMMANDS:
        (commands / name).symlink_to(f"/{PREFIX}/lib/lab/node/{name}")
    links_of = _links(image)
    if with_kubernetes:
        _add_kubernetes(links_of, commands)
        containers.write(prefix / "images", layer, image)
        (prefix / "pkgs/cri-o").mkdir(parents=True)
        (prefix / "pkgs/cri-o/etc").symlink_to(f"/{kubernetes.PREFIX}/etc")
    (prefix / "pkgs/systemd").mkdir(parents=True)
    (prefix / "pkgs/systemd/lib").symlink_to("/usr/lib")
    for package, links in links_of.items():
        folder = prefix / "pkgs" / package / "bin"
        folder.mkdir(parents=True)
        for name, target in links.items():
            (folder / name).symlink_to(target)
    for path in layer.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    layer.chmod(0o755)


def _add_kubernetes(links_of: dict[str, dict[str, str]], commands: Path) -> None:
    for package, names in BUILT.items():
        links_of[package] = {name: f"/{kubernetes.PREFIX}/bin/{name}" for name in names}
    for further in kubernetes.FURTHER.values():  # the links of a minor that the lab lacks lead nowhere
        links_of[further.name] = {name: f"/{further.prefix}/bin/{name}" for name in kubernetes.KUBERNETES}
    links_of["cri-o"].update(BESIDE_CRIO)
    # Debian's would be found first.
    for name in BUILT["etcd"]:
        (commands / name).symlink_to(links_of["etcd"][name])


def _links(image: Path) -> dict[str, dict[str, str]]:
    info = image / "var/lib/dpkg/info"
    links: dict[str, dict[str, str]] = {package: {} for package in (*DEBIAN, *OWN)}
    for package, sources in DEBIAN.items():
        for source in sources:
            for file_list in (info / f"{source}.list", info / f"{source}:amd64.list"):
                if file_list.is_file():
                    links[package].update(programs(file_list.read_text()))
    for package, own in OWN.items():
        links[package].update(own)
    return links
