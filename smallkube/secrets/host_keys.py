"""The nodes' SSH host keys: strict parsing, fingerprints, and the tag under which age knows them.

Wire form: RFC 4253 §6.6 and RFC 8709 §4; fingerprint: as ``ssh-keygen -lf`` prints it.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from smallkube.core.errors import UsageError, split_lines
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster

ED25519 = "ssh-ed25519"
FILE = "etc/ssh/ssh_host_ed25519_key"
"""Where sshd of NixOS has the private half, below the root of the machine."""
_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+")
_EXPECTED = "expected: ssh-ed25519 AAAA… [comment]"
_WIRE_PREFIX = len(ED25519).to_bytes(4, "big") + ED25519.encode() + (32).to_bytes(4, "big")


@dataclass(frozen=True)
class HostKey:
    """An ssh-ed25519 public key; two keys are equal when their key material is, whatever the comment."""

    wire: bytes

    def __str__(self) -> str:
        """``ssh-ed25519 BASE64``: the form that age takes as a recipient."""
        return f"{ED25519} {base64.b64encode(self.wire).decode()}"

    @property
    def fingerprint(self) -> str:
        """``SHA256:…``, unpadded base64."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.wire).digest()).decode().rstrip("=")

    @cached_property
    def tag(self) -> str:
        """What an age header calls this key: the first 4 bytes of its SHA-256, unpadded base64."""
        return base64.b64encode(hashlib.sha256(self.wire).digest()[:4]).decode().rstrip("=")


def make() -> tuple[bytes, HostKey]:
    """A new key pair; the private half as sshd reads it (openssh-key-v1)."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), of_private(key)


def of_private(key: Ed25519PrivateKey) -> HostKey:
    """The public half."""
    return HostKey(_WIRE_PREFIX + key.public_key().public_bytes_raw())


def parse_host_key(text: str, where: str) -> HostKey:
    """The one ed25519 key in ``text``: ``ssh-ed25519 BASE64 [comment]``, or what ``ssh-keyscan`` prints of one machine.

    Raises UsageError that names ``where``. Other key types don't count: age can encrypt to ed25519 and RSA only, and
    agenix reads the host's ed25519 key.
    """
    found, others = set(), False
    for line in split_lines(text):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if fields[0].startswith("@"):
            raise UsageError(f"a line of known_hosts with {fields[0][:40]}", where=where, hint=_EXPECTED)
        if len(fields) > 2 and _TYPE.fullmatch(fields[1]) and not _TYPE.fullmatch(fields[0]):
            del fields[0]  # the name of the machine, as ssh-keyscan prints it
        if len(fields) < 2 or not _TYPE.fullmatch(fields[0]):
            raise UsageError("not an SSH public key", where=where, hint=_EXPECTED)
        if fields[0] == ED25519:
            found.add(_wire(fields[1], where))
        else:
            others = True
    if len(found) > 1:
        hint = "leave the line of this machine"
        raise UsageError(f"{len(found)} keys where one SSH public key belongs", where=where, hint=hint)
    if not found:
        problem = "a host key of another type than ssh-ed25519" if others else "not an SSH public key"
        raise UsageError(problem, where=where, hint="take /etc/ssh/ssh_host_ed25519_key.pub" if others else _EXPECTED)
    return HostKey(found.pop())


def _wire(text: str, where: str) -> bytes:
    try:
        wire = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UsageError("the SSH public key is not base64", where=where) from error
    if not wire.startswith(_WIRE_PREFIX) or len(wire) != len(_WIRE_PREFIX) + 32:
        raise UsageError("damaged SSH public key: not the wire form of an ed25519 key", where=where)
    return wire


def read_host_key(workspace: Workspace, node: str) -> HostKey | None:
    """The stored key of ``node``, None when there is none; raises UsageError when it is damaged."""
    path = workspace.hosts_keys_dir / f"{node}.pub"
    text = workspace.read_text(path)
    return None if text is None else parse_host_key(text, workspace.relative(path))


def load_hosts(cluster: Cluster) -> dict[str, HostKey]:
    """The stored host keys of the inventory's nodes.

    Raises UsageError on a damaged one, and on one that two nodes share: each could read the other's secrets.
    """
    stored = {node.name: read_host_key(cluster.workspace, node.name) for node in cluster.inventory.nodes}
    hosts = {name: key for name, key in stored.items() if key}
    for second, first in shared(hosts).items():
        raise UsageError(
            f"{first} and {second} have the same host key (a cloned machine?)",
            where=cluster.workspace.relative(cluster.workspace.hosts_keys_dir / f"{second}.pub"),
            hint=f"make new SSH host keys on {second}, then run `inv keys.scan --node {second}`",
        )
    return hosts


def shared(hosts: Mapping[str, HostKey]) -> dict[str, str]:
    """Each node whose host key another one before it has, with that one."""
    seen: dict[HostKey, str] = {}
    return {node: first for node, key in hosts.items() if (first := seen.setdefault(key, node)) != node}
