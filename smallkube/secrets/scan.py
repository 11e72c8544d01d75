"""Reading the nodes' SSH host keys over the network, for a person to compare and confirm.

What a network answers is not proof of anything: only the comparison of fingerprints makes a key trusted.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace, write_file
from smallkube.inventory.models import Node
from smallkube.secrets.ssh_keys import ED25519, HostKey, parse_host_key, read_host_key

_AT_ONCE = 32


class State(StrEnum):
    """How the key that a node showed compares with the stored one."""

    NEW = "new"
    SAME = "unchanged"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True)
class Scanned:
    """What one node showed; ``reason`` in words when it failed."""

    node: Node
    state: State
    key: HostKey | None = None
    stored: HostKey | None = None
    reason: str = ""


def scan(
    workspace: Workspace,
    nodes: Sequence[Node],
    timeout: int,
    progress: Callable[[str, str], None],
    program: str = "ssh-keyscan",
) -> tuple[Scanned, ...]:
    """Ask all ``nodes`` at once; ``timeout`` in seconds each. ``progress(node, outcome)`` is called as they answer.

    A node that fails is reported in its row. Raises UsageError when ``program`` is not here.
    """
    if shutil.which(program) is None:
        raise UsageError(f"{program} is not installed", hint="apt-get install openssh-client")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = {pool.submit(_scan_one, workspace, node, timeout, program): node for node in nodes}
        found = {}
        for future in as_completed(running):
            row = future.result()
            progress(row.node.name, row.state)
            found[row.node.name] = row
    return _refuse_shared(tuple(found[node.name] for node in nodes))


def _scan_one(workspace: Workspace, node: Node, timeout: int, program: str) -> Scanned:
    try:
        key = _ask(node, timeout, program)
        path = workspace.hosts_keys_dir / f"{node.name}.pub"
        stored = read_host_key(path, workspace.relative(path)) if path.exists() else None
    except SmallkubeError as error:
        return Scanned(node, State.FAILED, reason=str(error))
    if stored is None:
        return Scanned(node, State.NEW, key)
    return Scanned(node, State.SAME if stored == key else State.CHANGED, key, stored)


def _ask(node: Node, timeout: int, program: str) -> HostKey:
    where = f"{node.ssh.host} port {node.ssh.port}"
    argv = [program, "-T", str(timeout), "-p", str(node.ssh.port), "-t", "ed25519", "--", node.ssh.host]
    done = process.run(argv, timeout=timeout + 10)
    if done.stopped:
        raise SmallkubeError(f"no answer within {timeout + 10} s", where=where)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    keys = {words[2] for line in lines if len(words := line.split()) == 3 and words[1] == ED25519}
    if len(keys) != 1:
        said = next((f": {line}" for line in done.stderr.splitlines() if line and not line.startswith("#")), "")
        raise SmallkubeError(f"no ssh-ed25519 host key there{said}", where=where, hint="is sshd running there?")
    return parse_host_key(f"{ED25519} {keys.pop()}", where)


def _refuse_shared(rows: tuple[Scanned, ...]) -> tuple[Scanned, ...]:
    """Cloned machines have one host key, and each could then read the other's secrets."""
    first: dict[HostKey, str] = {}
    result = []
    for row in rows:
        owner = first.setdefault(row.key, row.node.name) if row.key else row.node.name
        if owner != row.node.name:
            reason = f"has the same host key as {owner} (a cloned machine?); make new SSH host keys on it"
            result.append(Scanned(row.node, State.FAILED, reason=reason))
        else:
            result.append(row)
    return tuple(result)


def store(workspace: Workspace, rows: Iterable[Scanned]) -> tuple[str, ...]:
    """Store the keys of ``rows`` as keys/hosts/NODE.pub; returns the files written."""
    written = []
    for row in rows:
        path = workspace.hosts_keys_dir / f"{row.node.name}.pub"
        if row.key and write_file(path, f"{row.key} {row.node.name}\n"):
            written.append(workspace.relative(path))
    return tuple(written)
