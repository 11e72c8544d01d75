"""Is everything in keys/ there, encrypted to exactly those who may read it, and consistent? Changes nothing.

Without the master identity this rests on records and headers (see ``recipients``); with it, on decrypting everything.
"""

import datetime
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smallkube.core import process
from smallkube.core.errors import UsageError, listed
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, agenix, certificates, kinds, peers, policy, transaction
from smallkube.secrets.policy import Kind
from smallkube.secrets.recipients import Finding, Keyring, Proof, State, load_keyring
from smallkube.secrets.transaction import Keys, read_keys

_CLEAR = (b"AGE-SECRET-KEY-1", b"PRIVATE KEY-----")
_LARGEST = 64 * 1024
GENERATE = "inv keys.generate"
REKEY = "inv keys.rekey"
CERTIFICATES = "inv keys.rotate-certificates"
WIREGUARD = "inv keys.rotate-wireguard"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file of keys/, and the command that fixes it."""

    file: str
    fault: str
    fix: str


@dataclass(frozen=True)
class Report:
    """``proofs``: for each secret of the policy, what the statement about it rests on."""

    proofs: tuple[tuple[str, Proof], ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Read:
    """All that the parts check, read once."""

    cluster: Cluster
    keys: Keys
    keyring: Keyring
    findings: tuple[Finding, ...]
    now: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    @property
    def plaintexts(self) -> dict[str, bytes]:
        return {item.secret.name: item.plaintext for item in self.findings if item.plaintext is not None}


def check(cluster: Cluster) -> Report:
    """Check all of keys/.

    Raises UsageError when there is nothing to compare with: no master's public key, damaged host keys or records.
    """
    master = age.read_master(cluster.workspace)
    keyring, keys = load_keyring(cluster, master), read_keys(cluster.workspace)
    table = policy.expected(cluster.inventory, keys.files)
    in_force = master.only(keyring.master) if master else None
    findings = transaction.examined(keys, table, keyring, in_force)
    read = _Read(cluster, keys, keyring, findings)
    own = (_interrupted(read), _secrets(read), _certificates(read), _peers(read))
    parts = (*own, _derived(read, master), _stale(read), _leaks(cluster.workspace))
    problems = [problem for part in parts for problem in part]
    proofs = tuple((finding.secret.file, finding.proof) for finding in findings)
    return Report(proofs, tuple(problems))


def _interrupted(read: _Read) -> Iterator[Problem]:
    if subjects := transaction.unfinished(read.cluster.workspace):
        yield Problem("(all)", f"a change was interrupted: {listed(subjects)}", GENERATE)


def _secrets(read: _Read) -> Iterator[Problem]:
    for finding in read.findings:
        row = finding.secret
        unknown = [node for node in row.readers if node not in read.keyring.hosts]
        fix = {
            State.MISSING: GENERATE,
            State.WRONG_SET: REKEY,
            State.DAMAGED: f"git checkout -- keys/{row.file}",
            State.UNKNOWN: "inv keys.scan " + " ".join(f"--node {node}" for node in unknown),
        }
        if finding.state is not State.GOOD:
            yield Problem(row.file, "; ".join(finding.faults), fix[finding.state])
        if finding.state is State.GOOD and row.kind is Kind.ENCRYPTION and finding.plaintext:
            yield from _encrypted_resources(read, row.file, finding.plaintext)


def _encrypted_resources(read: _Read, file: str, plaintext: bytes) -> Iterator[Problem]:
    wanted = read.cluster.inventory.cluster.secrets.encrypted_resources
    if set(kinds.encrypted_resources(plaintext)) != set(wanted):
        fault = f"its resources are not those of the inventory ({', '.join(wanted)})"
        yield Problem(file, fault, f"inv keys.edit {file.removesuffix(policy.SUFFIX)}")


def _certificates(read: _Read) -> Iterator[Problem]:
    for row in policy.secrets_of(read.cluster.inventory):
        if row.certificate is None:
            continue
        wanted = row.certificate
        pem = read.keys.certificates.get(wanted.file)
        for fault in certificates.complaints(pem, wanted, row.file, read.plaintexts.get(row.name), read.now):
            yield Problem(wanted.file, fault, GENERATE if pem is None else CERTIFICATES)


def _peers(read: _Read) -> Iterator[Problem]:
    name = read.cluster.workspace.peers_file.name
    try:
        entries = peers.read(read.cluster.workspace)
    except UsageError as error:
        yield Problem(name, error.message, f"git checkout -- keys/{name}")
        return
    public = peers.public_keys(entries)
    for node in read.cluster.inventory.nodes:
        if node.index not in public:
            yield Problem(name, f"{node.name} is missing", GENERATE)
        private = read.plaintexts.get(f"wgkube{node.index}.key")
        if private and node.index in public:
            derived = kinds.wireguard_public(private, name)
            if derived != public[node.index]:
                fault = f"the PublicKey of {node.name} is not that of its private key"
                yield Problem(name, fault, f"{WIREGUARD} --node {node.name}")
    for words in peers.updated(entries, read.cluster.inventory, {}).words:
        yield Problem(name, words.replace(" removed", " is no longer in the inventory"), GENERATE)


def _derived(read: _Read, master: age.Master | None) -> Iterator[Problem]:
    path = read.cluster.workspace.secrets_nix
    wanted = agenix.render(policy.expected(read.cluster.inventory, read.keys.files), read.keyring)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    complete = all(node.name in read.keyring.hosts for node in read.cluster.inventory.nodes)
    if text != wanted and (complete or text is None):
        yield Problem(path.name, "missing" if text is None else "stale: not what the inventory requires", GENERATE)
    if master and master.recipient != read.keyring.master:
        yield Problem("master_key", "its first identity is not the master in force", REKEY)


def _stale(read: _Read) -> Iterator[Problem]:
    table = policy.expected(read.cluster.inventory, read.keys.files)
    known = {row.file for row in table} | set(policy.public_files(read.cluster.inventory, read.keys.certificates))
    for name in (*read.keys.files, *read.keys.certificates):
        if name not in known:
            yield Problem(name, "stale: nothing in the inventory has this secret", f"git rm keys/{name}")
    nodes = {f"{node.name}.pub" for node in read.cluster.inventory.nodes}
    folder = read.cluster.workspace.hosts_keys_dir
    for path in sorted(folder.glob("*.pub")) if folder.is_dir() else ():
        if path.name not in nodes:
            yield Problem(f"hosts/{path.name}", "stale: no such node", f"git rm keys/hosts/{path.name}")


def _leaks(workspace: Workspace) -> Iterator[Problem]:
    """Can a secret leak from the files in keys/: modes, git, private keys in clear?"""
    master = workspace.master_key
    if master.exists() and (mode := stat.S_IMODE(master.stat().st_mode)) != 0o600:
        yield Problem(master.name, f"mode {mode:04o} instead of 0600", f"chmod 600 {workspace.relative(master)}")
    yield from _git(workspace)
    for path in sorted(workspace.keys_dir.rglob("*")):
        name = str(path.relative_to(workspace.keys_dir))
        if path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_mode & stat.S_IWOTH:
            yield Problem(name, "anyone on this machine may change it", f"chmod o-w keys/{name}")
        if path != master and _holds_private_key(path):
            yield Problem(name, "holds a private key in clear", f"rm keys/{name}, and replace what it opens")


def _holds_private_key(path: Path) -> bool:
    if path.stat().st_size > _LARGEST:
        return False
    data = path.read_bytes()
    return any(mark in data for mark in _CLEAR)


def _git(workspace: Workspace) -> Iterator[Problem]:
    """Whether git can commit the identity; nothing where there is no git or no work tree."""
    name = workspace.master_key.name
    tracked = _git_status(workspace, "ls-files", "--error-unmatch", "--", f"keys/{name}")
    if tracked == 0:
        yield Problem(
            name, "is tracked by git: each clone of the repository has every secret", f"git rm --cached keys/{name}"
        )
    elif _git_status(workspace, "check-ignore", "-q", "--", f"keys/{name}") == 1:
        yield Problem(name, "git does not ignore it", f"echo /{name} >> keys/.gitignore")


def _git_status(workspace: Workspace, *arguments: str) -> int | None:
    try:
        done = process.run(["git", "-C", workspace.root, *arguments], timeout=20)
    except process.NotStarted:
        return None
    return None if done.stopped else done.status
