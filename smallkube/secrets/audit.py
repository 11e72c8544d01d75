"""Is everything in keys/ there, encrypted to exactly those who may read it, and consistent? Changes nothing.

Without the master identity this rests on records and headers (see ``recipients``); with it, on decrypting everything.
"""

import datetime
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from smallkube.core import git
from smallkube.core.errors import UsageError, listed
from smallkube.core.workspace import IDENTITY, Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, certificates, client_certificates, exposed, kinds, peers, people, policy
from smallkube.secrets.keyring import Keyring, load_keyring
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.recipients import Finding, State, render_rules
from smallkube.secrets.transaction import Keys, examined, read_keys, unfinished

_CLEAR = re.compile(rb"AGE-SECRET-KEY-(PQ-)?1|PRIVATE KEY-----")
_LARGEST = 64 * 1024
GENERATE = "inv keys.generate"
REKEY = "inv keys.rekey"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file of keys/, and the command that fixes it."""

    file: str
    fault: str
    fix: str


@dataclass(frozen=True)
class Report:
    """``findings``: on each secret of the policy; ``problems``: of all that is in keys/."""

    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]


def check(cluster: Cluster) -> Report:
    """Check all of keys/.

    Raises UsageError when there is nothing to compare with: no master's public key, damaged host keys or records.
    """
    master = age.read_master(cluster.workspace)
    keyring, keys = load_keyring(cluster, master), read_keys(cluster.workspace)
    table = policy.expected(cluster.inventory, keys.files)
    findings = examined(cluster, keys, table, keyring, keyring.own(master))
    plaintexts = {each.secret.name: each.plaintext for each in findings if each.plaintext is not None}
    problems = [
        *_secrets(cluster, findings, keyring),
        *_certificates(cluster, keys, plaintexts),
        *_people(cluster.workspace, keys, plaintexts),
        *_peers(cluster, plaintexts),
        *_secrets_nix(cluster, table, keyring),
        *_stale(cluster, table, keys),
    ]
    if subjects := unfinished(cluster.workspace):
        problems.insert(0, Problem("(all)", f"a change was interrupted: {listed(subjects)}", GENERATE))
    return Report(findings, (*problems, *_admins(cluster, keyring, master), *_leaks(cluster.workspace)))


def _admins(cluster: Cluster, keyring: Keyring, master: age.Master | None) -> Iterator[Problem]:
    """Does the identity here belong to an administrator, and is nothing left of an earlier one?"""
    file = cluster.workspace.relative(cluster.workspace.identity_file).removeprefix("keys/")
    if keyring.listed and master and not keyring.own(master):
        fix = f"name an administrator's identity file in {IDENTITY}"
        yield Problem(file, "belongs to no administrator in cluster.secrets.admins", fix)
    if not keyring.listed and master and master.recipient not in keyring.admins.values():
        yield Problem(file, "its first identity is not the master in force", REKEY)
    if leaving := exposed.read(cluster.workspace):
        fault = f"{leaving.name}, who is being removed, could read {len(leaving.secrets)} secrets that are not replaced"
        yield Problem(cluster.workspace.exposed_file.name, fault, f"inv admins.remove {leaving.name}")
    if keyring.listed and (cluster.workspace.keys_dir / age.MASTER_RECIPIENT).exists():
        yield Problem(age.MASTER_RECIPIENT, "not used: cluster.secrets.admins has the recipients", GENERATE)


def _secrets(cluster: Cluster, findings: Sequence[Finding], keyring: Keyring) -> Iterator[Problem]:
    wanted = cluster.inventory.cluster.secrets.encrypted_resources
    for finding in findings:
        row = finding.secret
        configuration = finding.plaintext if row.kind is Kind.ENCRYPTION else None
        fix = {
            State.MISSING: GENERATE,
            State.WRONG_SET: REKEY,
            State.DAMAGED: f"git checkout -- keys/{row.file}",
            State.UNKNOWN: "inv keys.scan " + " ".join(f"--node {node}" for node in keyring.unknown(row)),
        }
        if finding.state is not State.GOOD:
            yield Problem(row.file, "; ".join(finding.faults), fix[finding.state])
        elif configuration and set(kinds.encrypted_resources(configuration)) != set(wanted):
            fault = f"its resources are not those of the inventory ({', '.join(wanted)})"
            gone = [name for name in kinds.encrypted_resources(configuration) if name not in wanted]
            again = f"add {', '.join(gone)} to cluster.secrets.encrypted_resources again: objects are encrypted"
            yield Problem(row.file, fault, again if gone else "inv encryption.rotate")


def _certificates(cluster: Cluster, keys: Keys, plaintexts: Mapping[str, bytes]) -> Iterator[Problem]:
    now = datetime.datetime.now(datetime.UTC)
    for row in policy.secrets_of(cluster.inventory):
        if wanted := row.certificate:
            pem = keys.certificates.get(wanted.file)
            fix = GENERATE if pem is None else "inv keys.rotate-certificates"
            for fault in certificates.complaints(pem, wanted, row.file, plaintexts.get(row.name), now):
                yield Problem(wanted.file, fault, fix)


def _people(workspace: Workspace, keys: Keys, plaintexts: Mapping[str, bytes]) -> Iterator[Problem]:
    """People's certificates and keys, and files of those whom users.json does not name."""
    try:
        known = people.read(workspace)
    except UsageError as error:
        yield Problem(workspace.users_file.name, error.message, error.hint or "")
        return
    for person in known.values():
        restore = f"git checkout -- keys/{person.certificate}, or inv users.remove {person.name}"
        pem = workspace.read(workspace.keys_dir / person.certificate)
        faults = client_certificates.faults(person, pem)
        private = plaintexts.get(person.key.name)
        if not faults and pem and private and not client_certificates.belongs(pem, private, person.key.file):
            faults.append(f"is not over the key in {person.key.file}")
        yield from (Problem(person.certificate, fault, restore) for fault in faults)
    here = {f"users/{path.name}" for path in sorted(workspace.users_keys_dir.glob("*"))}
    expected = {file for each in known.values() for file in (each.certificate, each.own_key)}
    keys_of = {each.key.file for each in known.values()}
    ours = {name for name in keys.files if name.startswith("user_") and name not in keys_of}
    for name in sorted((here - expected) | ours):
        yield Problem(name, "stale: users.json has no such user", f"git rm keys/{name}")


def _peers(cluster: Cluster, plaintexts: Mapping[str, bytes]) -> Iterator[Problem]:
    try:
        entries = peers.read(cluster.workspace)
    except UsageError as error:
        yield Problem(peers.FILE, error.message, f"git checkout -- keys/{peers.FILE}")
        return
    public = peers.public_keys(entries)
    for node in cluster.inventory.nodes:
        private = plaintexts.get(f"wgkube{node.index}.key")
        if node.index not in public:
            yield Problem(peers.FILE, f"{node.name} is missing", GENERATE)
        elif private and kinds.wireguard_public(private, peers.FILE) != public[node.index]:
            fault = f"the PublicKey of {node.name} is not that of its private key"
            yield Problem(peers.FILE, fault, f"inv keys.rotate-wireguard --node {node.name}")
    for words in peers.updated(entries, cluster.inventory, {}).words:
        yield Problem(peers.FILE, words.replace(" removed", " is no longer in the inventory"), GENERATE)


def _secrets_nix(cluster: Cluster, table: Sequence[Secret], keyring: Keyring) -> Iterator[Problem]:
    path = cluster.workspace.secrets_nix
    data = cluster.workspace.read(path)
    complete = all(node.name in keyring.hosts for node in cluster.inventory.nodes)
    if data is None or (complete and data != render_rules(table, keyring).encode()):
        yield Problem(path.name, "missing" if data is None else "stale: not what the inventory requires", GENERATE)


def _stale(cluster: Cluster, table: Sequence[Secret], keys: Keys) -> Iterator[Problem]:
    known = {row.file for row in table}
    known.update(policy.public_files(cluster.inventory, keys.certificates))
    for name in (*keys.files, *keys.certificates):
        if name not in known:
            yield Problem(name, "stale: nothing in the inventory has this secret", f"git rm keys/{name}")
    nodes = {f"{node.name}.pub" for node in cluster.inventory.nodes}
    for path in sorted(cluster.workspace.hosts_keys_dir.glob("*.pub")):
        if path.name not in nodes:
            yield Problem(f"hosts/{path.name}", "stale: no such node", f"git rm keys/hosts/{path.name}")


def _leaks(workspace: Workspace) -> Iterator[Problem]:
    """Can a secret leak from the files in keys/: modes, git, private keys in clear (also in UTF-16)?"""
    master, own = workspace.master_key, workspace.identity_file
    if master.exists() and (mode := stat.S_IMODE(master.stat().st_mode)) != 0o600:
        yield Problem(master.name, f"mode {mode:04o} instead of 0600", f"chmod 600 {workspace.relative(master)}")
    if own != master and own.exists() and (mode := stat.S_IMODE(own.stat().st_mode)) & 0o077:
        yield Problem(str(own), f"mode {mode:04o}: others can read this identity", f"chmod 600 {own}")
    for file, (fault, fix) in git.exposed(workspace).items():
        yield Problem(file.removeprefix("keys/"), fault, fix)
    for path in sorted(workspace.keys_dir.rglob("*")):
        name = str(path.relative_to(workspace.keys_dir))
        if path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_mode & stat.S_IWOTH:
            yield Problem(name, "anyone on this machine may change it", f"chmod o-w keys/{name}")
        if path != master and path.stat().st_size <= _LARGEST and _CLEAR.search(path.read_bytes().replace(b"\0", b"")):
            yield Problem(name, "holds a private key in clear", f"rm keys/{name}, and replace what it opens")
