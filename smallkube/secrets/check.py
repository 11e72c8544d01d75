"""Is everything in keys/ there, encrypted to exactly those who may read it, and consistent? Changes nothing.

Without the master identity this rests on records and headers (see ``proof``); with it, on decrypting everything.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field

from smallkube.core.errors import UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, agenix, certificates, journal, kinds, peers, policy
from smallkube.secrets.keyring import Keyring, load_hosts, read_master, read_recipient
from smallkube.secrets.leaks import exposures
from smallkube.secrets.policy import Kind
from smallkube.secrets.proof import Finding, Proof, State, examine_all
from smallkube.secrets.store import Keys, read_keys

GENERATE = "inv keys.generate"
REKEY = "inv keys.rekey"
CERTIFICATES = "inv keys.rotate-certificates"
WIREGUARD = "inv keys.rotate-wireguard"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file of keys/, and the command that mends it."""

    file: str
    fault: str
    mend: str


@dataclass(frozen=True)
class Report:
    """``proofs``: for each secret of the policy, what the statement about it rests on."""

    proofs: tuple[tuple[str, Proof], ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Here:
    """Everything the parts look at, read once."""

    cluster: Cluster
    keys: Keys
    keyring: Keyring
    findings: tuple[Finding, ...]
    now: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    @property
    def plaintexts(self) -> dict[str, bytes]:
        return {item.secret.name: item.plaintext for item in self.findings if item.plaintext is not None}


def check(cluster: Cluster) -> Report:
    """Look at all of keys/.

    Raises UsageError when there is nothing to compare with: no master's public key, damaged host keys or records.
    """
    master = read_master(cluster.workspace)
    recipient = read_recipient(cluster.workspace, master)
    if recipient is None:
        raise UsageError(
            "no secrets yet", where=cluster.workspace.relative(cluster.workspace.keys_dir), hint=f"run `{GENERATE}`"
        )
    keys = read_keys(cluster.workspace)
    keyring = Keyring(recipient, load_hosts(cluster))
    table = policy.expected(cluster.inventory, keys.files)
    in_force = master.only(recipient) if master else None
    findings = examine_all(table, keys.files, keyring, keys.records, in_force)
    here = _Here(cluster, keys, keyring, findings)
    parts = (_secrets(here), _certificates(here), _peers(here), _derived(here, master), _stale(here))
    problems = [problem for part in parts for problem in part]
    problems += [Problem(*exposed) for exposed in exposures(cluster.workspace)]
    proofs = tuple((finding.secret.file, finding.proof) for finding in findings)
    return Report(proofs, tuple(problems))


def _secrets(here: _Here) -> Iterator[Problem]:
    for finding in here.findings:
        row = finding.secret
        unknown = [node for node in row.readers if node not in here.keyring.hosts]
        mend = {
            State.MISSING: GENERATE,
            State.WRONG_SET: REKEY,
            State.DAMAGED: f"git checkout -- keys/{row.file}",
            State.UNKNOWN: "inv keys.scan " + " ".join(f"--node {node}" for node in unknown),
        }
        if finding.state is not State.GOOD:
            yield Problem(row.file, "; ".join(finding.faults), mend[finding.state])
        if finding.state is State.GOOD and row.kind is Kind.ENCRYPTION and finding.plaintext:
            yield from _encrypted_resources(here, row.file, finding.plaintext)


def _encrypted_resources(here: _Here, file: str, plaintext: bytes) -> Iterator[Problem]:
    wanted = here.cluster.inventory.cluster.secrets.encrypted_resources
    if set(kinds.encrypted_resources(plaintext)) != set(wanted):
        fault = f"its resources are not those of the inventory ({', '.join(wanted)})"
        yield Problem(file, fault, f"inv keys.edit {file.removesuffix(policy.SUFFIX)}")


def _certificates(here: _Here) -> Iterator[Problem]:
    for row in policy.secrets_of(here.cluster.inventory):
        if row.certificate is None:
            continue
        wanted = row.certificate
        pem = here.keys.certificates.get(wanted.file)
        for fault in certificates.complaints(pem, wanted, row.file, here.plaintexts.get(row.name), here.now):
            yield Problem(wanted.file, fault, GENERATE if pem is None else CERTIFICATES)


def _peers(here: _Here) -> Iterator[Problem]:
    name = here.cluster.workspace.peers_file.name
    if journal.unfinished(here.cluster.workspace):
        yield Problem(name, "a change of WireGuard keys was interrupted", GENERATE)
        return
    try:
        entries = peers.read(here.cluster.workspace)
    except UsageError as error:
        yield Problem(name, error.message, f"git checkout -- keys/{name}")
        return
    public = peers.public_keys(entries)
    for node in here.cluster.inventory.nodes:
        if node.index not in public:
            yield Problem(name, f"{node.name} is missing", GENERATE)
        private = here.plaintexts.get(f"wgkube{node.index}.key")
        if private and node.index in public:
            derived = kinds.wireguard_public(private, name)
            if derived != public[node.index]:
                fault = f"the PublicKey of {node.name} is not that of its private key"
                yield Problem(name, fault, f"{WIREGUARD} --node {node.name}")
    for words in peers.updated(entries, here.cluster.inventory, {}).words:
        yield Problem(name, words.replace(" removed", " is no longer in the inventory"), GENERATE)


def _derived(here: _Here, master: age.Master | None) -> Iterator[Problem]:
    path = here.cluster.workspace.secrets_nix
    wanted = agenix.render(policy.expected(here.cluster.inventory, here.keys.files), here.keyring)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    complete = all(node.name in here.keyring.hosts for node in here.cluster.inventory.nodes)
    if text != wanted and (complete or text is None):
        yield Problem(path.name, "missing" if text is None else "stale: not what the inventory demands", GENERATE)
    if master and master.recipient != here.keyring.master:
        yield Problem("master_key", "its first identity is not the master in force", REKEY)


def _stale(here: _Here) -> Iterator[Problem]:
    table = policy.expected(here.cluster.inventory, here.keys.files)
    known = {row.file for row in table} | set(policy.public_files(here.cluster.inventory, here.keys.certificates))
    for name in (*here.keys.files, *here.keys.certificates):
        if name not in known:
            yield Problem(name, "stale: nothing in the inventory has this secret", f"git rm keys/{name}")
    nodes = {f"{node.name}.pub" for node in here.cluster.inventory.nodes}
    folder = here.cluster.workspace.hosts_keys_dir
    for path in sorted(folder.glob("*.pub")) if folder.is_dir() else ():
        if path.name not in nodes:
            yield Problem(f"hosts/{path.name}", "stale: no such node", f"git rm keys/hosts/{path.name}")
