"""The nodes' SSH host keys: strict parsing, fingerprints, the tag under which age knows them, and scanning the network.

What a network answers is no proof: only the comparison of fingerprints by an operator makes a key trusted. Wire form:
RFC 4253 §6.6 and RFC 8709 §4; fingerprint: as ``ssh-keygen -lf`` prints it.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.models import Node

ED25519 = "ssh-ed25519"
_WIRE_PREFIX = len(ED25519).to_bytes(4, "big") + ED25519.encode() + (32).to_bytes(4, "big")
_KEYSCAN = "ssh-keyscan"
_AT_ONCE = 32


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


def parse_host_key(text: str, where: str) -> HostKey:
    """The key in ``text``: exactly one line, ``ssh-ed25519 BASE64 [comment]``.

    Raises UsageError that names ``where``. Other key types are refused: age can encrypt to ed25519 and RSA only, and
    agenix reads the host's ed25519 key.
    """
    lines = text.strip().splitlines() or [""]
    if len(lines) != 1:
        raise UsageError(f"{len(lines)} lines where one SSH public key belongs", where=where)
    fields = lines[0].split()
    if len(fields) < 2:
        raise UsageError("not an SSH public key", where=where, hint="expected: ssh-ed25519 AAAA… [comment]")
    if fields[0] != ED25519:
        raise UsageError(
            "a host key of another type than ssh-ed25519", where=where, hint="take /etc/ssh/ssh_host_ed25519_key.pub"
        )
    try:
        wire = base64.b64decode(fields[1], validate=True)
    except ValueError as error:
        raise UsageError("the SSH public key is not base64", where=where) from error
    if not wire.startswith(_WIRE_PREFIX) or len(wire) != len(_WIRE_PREFIX) + 32:
        raise UsageError("damaged SSH public key: not the wire form of an ed25519 key", where=where)
    return HostKey(wire)


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


class Scan(StrEnum):
    """How the key that a node showed compares with the stored one."""

    NEW = "new"
    SAME = "unchanged"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True)
class Scanned:
    """What one node showed and what is stored of it; no ``key`` and the ``reason`` in words when it failed."""

    node: Node
    key: HostKey | None = None
    stored: HostKey | None = None
    reason: str = ""

    @property
    def state(self) -> Scan:
        if not (self.key and self.stored):
            return Scan.NEW if self.key else Scan.FAILED
        return Scan.SAME if self.key == self.stored else Scan.CHANGED


def scan(
    workspace: Workspace, nodes: Sequence[Node], timeout: int, progress: Callable[[str, str], None]
) -> tuple[Scanned, ...]:
    """Ask all ``nodes`` at once; ``timeout`` in seconds each. ``progress(node, outcome)`` is called as they answer.

    A node that fails is reported in its row. Raises UsageError when ssh-keyscan is not found.
    """
    if not process.find(_KEYSCAN):
        raise UsageError(f"{_KEYSCAN} is not installed", hint="apt-get install openssh-client")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [pool.submit(_scan_one, workspace, node, timeout) for node in nodes]
        for future in as_completed(running):
            progress(future.result().node.name, future.result().state)
    rows = [future.result() for future in running]
    owners = shared({row.node.name: row.key for row in rows if row.key})
    reason = "has the same host key as {} (a cloned machine?); make new SSH host keys on it"
    return tuple(
        Scanned(row.node, reason=reason.format(owners[row.node.name])) if row.node.name in owners else row
        for row in rows
    )


def _scan_one(workspace: Workspace, node: Node, timeout: int) -> Scanned:
    try:
        return Scanned(node, _ask(node, timeout), read_host_key(workspace, node.name))
    except SmallkubeError as error:
        return Scanned(node, reason=str(error))


def _ask(node: Node, timeout: int) -> HostKey:
    where = f"{node.ssh.host} port {node.ssh.port}"
    argv = [_KEYSCAN, "-T", str(timeout), "-p", str(node.ssh.port), "-t", "ed25519", "--", node.ssh.host]
    done = process.run(argv, timeout=timeout + 10)
    if done.stopped:
        raise SmallkubeError(f"no answer within {timeout + 10} s", where=where)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    keys = {words[2] for line in lines if len(words := line.split()) == 3 and words[1] == ED25519}
    if len(keys) != 1:
        reported = next((f": {line}" for line in done.stderr.splitlines() if line and not line.startswith("#")), "")
        raise SmallkubeError(f"no ssh-ed25519 host key there{reported}", where=where, hint="is sshd running there?")
    return parse_host_key(f"{ED25519} {keys.pop()}", where)


def files(rows: Iterable[Scanned]) -> dict[str, bytes]:
    """The keys of ``rows`` as files in keys/: ``hosts/NODE.pub`` → content."""
    return {f"hosts/{row.node.name}.pub": f"{row.key} {row.node.name}\n".encode() for row in rows if row.key}
