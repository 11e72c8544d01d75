"""What the tasks need from this machine, as data.

Package names: packages.debian.org, search.nixos.org, packages.fedoraproject.org, archlinux.org/packages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Family(StrEnum):
    """Distributions that install packages by the same command, which is the value."""

    DEBIAN = "apt-get install"
    NIXOS = "nix-shell -p"
    FEDORA = "dnf install"
    ARCH = "pacman -S"
    OTHER = "install the packages"

    @classmethod
    def of(cls, identifiers: str) -> "Family":
        """By ``ID`` and ``ID_LIKE`` of os-release(5): words, the nearest first."""
        return next((_FAMILIES[word] for word in identifiers.split() if word in _FAMILIES), cls.OTHER)

    def install(self, packages: Iterable[str]) -> str:
        """The command that installs these packages."""
        return " ".join((self, *packages))


_FAMILIES = {
    "debian": Family.DEBIAN,
    "ubuntu": Family.DEBIAN,
    "nixos": Family.NIXOS,
    "fedora": Family.FEDORA,
    "rhel": Family.FEDORA,
    "centos": Family.FEDORA,
    "arch": Family.ARCH,
}


@dataclass(frozen=True)
class Tool:
    """Programs that come together, and the tasks that use them; ``essential`` when keys.*, nix.render or deploy do.

    ``package`` is its usual name; ``elsewhere`` has those of distributions that call it otherwise. ``version`` asks
    the first program for its version.
    """

    name: str
    programs: tuple[str, ...]
    needed_for: str
    package: str
    elsewhere: Mapping[Family, str] = field(default_factory=dict)
    version: tuple[str, ...] = ("--version",)
    essential: bool = False

    def package_on(self, family: Family) -> str:
        return self.elsewhere.get(family, self.package)


_OPENSSH_CLIENT = {Family.DEBIAN: "openssh-client", Family.FEDORA: "openssh-clients"}
_SYSTEMD_CONTAINER = {Family.DEBIAN: "systemd-container", Family.FEDORA: "systemd-container"}
_SYSTEMD_NETWORKD = {Family.FEDORA: "systemd-networkd"}
_ETCD_CLIENT = {Family.DEBIAN: "etcd-client"}

TOOLS = (
    Tool("ssh-keygen", ("ssh-keygen",), "lab.*, tests", "openssh", _OPENSSH_CLIENT, ()),
    Tool("ssh", ("ssh",), "every connection to a node", "openssh", _OPENSSH_CLIENT, ("-V",), essential=True),
    Tool("sshd", ("sshd",), "tests", "openssh", {Family.DEBIAN: "openssh-server", Family.FEDORA: "openssh-server"}, ()),
    Tool("git", ("git",), "keys.check, tests", "git"),
    Tool("age", ("age",), "tests", "age"),
    Tool("wg", ("wg",), "tests", "wireguard-tools"),
    Tool("openssl", ("openssl",), "tests", "openssl", version=("version",)),
    Tool(
        "nix-instantiate",
        ("nix-instantiate", "nix"),
        "nix.check, nodes.install, tests",
        "nix",
        {Family.DEBIAN: "nix-bin"},
    ),
    Tool("nft", ("nft",), "nix.check, tests", "nftables"),
    Tool("shellcheck", ("shellcheck",), "nix.check, tests", "shellcheck", {Family.FEDORA: "ShellCheck"}),
    Tool("jq", ("jq",), "tests", "jq"),
    Tool("systemd-analyze", ("systemd-analyze",), "nix.check, tests", "systemd"),
    Tool("systemd-networkd", ("systemd-networkd",), "nix.check, tests", "systemd", _SYSTEMD_NETWORKD, ()),
    Tool("util-linux", ("unshare", "nsenter", "setsid", "mount"), "nix.check, lab.*, tests", "util-linux"),
    Tool("ip", ("ip",), "lab.*, tests", "iproute2", {Family.FEDORA: "iproute"}, ("-V",)),
    Tool("systemd-nspawn", ("systemd-nspawn", "systemd-socket-proxyd"), "lab.*, tests", "systemd", _SYSTEMD_CONTAINER),
    Tool("debootstrap", ("debootstrap",), "lab.up", "debootstrap"),
    Tool("apt-config", ("apt-config",), "lab.up", "apt"),
    Tool("etcd", ("etcd",), "etcd.drill, tests", "etcd", {Family.DEBIAN: "etcd-server"}),
    Tool("etcdctl", ("etcdctl",), "etcd.drill, tests", "etcd", _ETCD_CLIENT, ("version",)),
    Tool("etcdutl", ("etcdutl",), "etcd.drill, tests (Debian ≥ 13)", "etcd", _ETCD_CLIENT, ("version",)),
)

PYTHON_PACKAGES: Mapping[str, str] = {
    "cryptography": "keys.*",
    "fabric": "deploy, net.check, nodes.*",
    "jinja2": "nix.render, deploy",
    "paramiko": "deploy, net.check, nodes.*",
    "pydantic": "all that reads inventory.yaml",
    "pyrage": "keys.*",
    "pyyaml": "all that reads inventory.yaml",
    "rich": "tables and progress on a terminal",
    "zstandard": "etcd.backup, etcd.verify, etcd.drill",
}
"""What a package of pyproject.toml (its name as in PEP 503) is for, where that is not everything."""
