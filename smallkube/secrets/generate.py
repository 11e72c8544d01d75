"""Generating the secrets that are missing: planned first, then written as one transaction.

The master identity is written before all else. A public half that is missing is derived again from its secret.
"""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from smallkube.core.errors import ErrorGroup, UsageError, listed
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, certificates, kinds, peers, policy, transaction
from smallkube.secrets.age import MASTER_RECIPIENT
from smallkube.secrets.host_keys import load_hosts
from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients import Finding, Keyring, State, require_host_keys
from smallkube.secrets.transaction import Change, Keys

IGNORED = "# The age identity that reads every secret, and what a killed write leaves.\n/master_key\n/.tmp-*\n"


@dataclass(frozen=True)
class Outcome:
    """File names created, how many were kept, what changed in peers.json, what else was written."""

    created: tuple[str, ...]
    kept: int
    peers: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is missing (secrets, certificates, public keys), what exists, and what is encrypted to a wrong set."""

    create: tuple[Secret, ...]
    kept: tuple[Secret, ...]
    certify: tuple[Secret, ...]
    publish: tuple[Secret, ...]
    rekey: tuple[Finding, ...]
    keyring: Keyring | None
    keys: Keys

    @property
    def new_master(self) -> bool:
        return self.keyring is None

    @property
    def created(self) -> tuple[str, ...]:
        """Names of the files that do not exist yet: encrypted ones and certificates."""
        certificates = (row.certificate.file for row in (*self.create, *self.certify) if row.certificate)
        return (*(row.file for row in self.create), *certificates)

    @property
    def preview(self) -> Outcome:
        return Outcome(self.created, len(self.kept))


def plan(cluster: Cluster, nodes: Collection[str] = ()) -> Plan:
    """What a run would do; ``nodes`` (names) restricts it to what belongs to these.

    Raises UsageError when a host key or the master is missing, and ErrorGroup when files contradict each other.
    """
    keys = transaction.read_keys(cluster.workspace)
    master = age.read_master(cluster.workspace)
    recipient = age.read_recipient(cluster.workspace, master)
    if recipient is None and keys.files:
        raise UsageError(
            f"{len(keys.files)} secrets found, but neither master_key nor {MASTER_RECIPIENT}",
            where=cluster.workspace.relative(cluster.workspace.keys_dir),
            hint=f"restore {MASTER_RECIPIENT} from git",
        )
    keyring = Keyring(recipient or "", load_hosts(cluster))
    table = policy.expected(cluster.inventory, keys.files)
    wanted = [row for row in table if not nodes or row.node in nodes]
    require_host_keys(cluster.workspace, keyring, wanted)
    present = tuple(row for row in wanted if row.file in keys.files)
    create = tuple(row for row in wanted if row.file not in keys.files)
    published = peers.nodes_with_key(cluster)
    _refuse_contradictions(cluster.workspace, create, keys, published)
    used = (row for row in present if row.in_use)
    certify = tuple(row for row in used if row.certificate and row.certificate.file not in keys.certificates)
    publish = tuple(row for row in present if row.publishes_key and row.node not in published)
    if (certify or publish) and master is None:
        raise UsageError(
            f"not found, and required to derive the public half of {listed(row.file for row in (*certify, *publish))}",
            where=cluster.workspace.relative(cluster.workspace.master_key),
            hint="restore it from your offline copy, or (if no node uses these yet) remove the files",
        )
    known = (row for row in table if row.file in keys.files and not keyring.unknown(row))
    findings = transaction.examined(keys, known, keyring) if recipient else ()
    rekey = tuple(finding for finding in findings if finding.state is State.WRONG_SET)
    return Plan(create, present, certify, publish, rekey, keyring if recipient else None, keys)


def _refuse_contradictions(
    workspace: Workspace, create: tuple[Secret, ...], keys: Keys, published: Collection[str]
) -> None:
    """A public half without its private one is never replaced silently: others may rely on it."""
    problems = []
    for row in create:
        where = workspace.relative(workspace.keys_dir / row.file)
        if row.certificate and row.certificate.file in keys.certificates:
            hint = f"restore it from git, or remove keys/{row.certificate.file} to have both generated"
            problems.append(UsageError(f"missing, but there is {row.certificate.file}", where=where, hint=hint))
        if row.publishes_key and row.node in published:
            hint = f"restore it from git, or replace both: `inv keys.rotate-wireguard --node {row.node}`"
            problems.append(UsageError("missing, but peers.json has its public key", where=where, hint=hint))
    if problems:
        raise ErrorGroup(problems)


def act(cluster: Cluster, planned: Plan) -> Outcome:
    """Carry out ``planned``; call it under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; the next command that takes the lock then completes it.
    """
    workspace = cluster.workspace
    keyring = planned.keyring or Keyring(_new_master(workspace), load_hosts(cluster))
    resources = cluster.inventory.cluster.secrets.encrypted_resources
    created = {row: kinds.make(row.kind, resources) for row in planned.create}
    plaintexts = {**created, **_decrypt(workspace, planned)}
    issued = certificates.issue_all(plaintexts, datetime.datetime.now(datetime.UTC))
    found = peers.published(cluster, plaintexts)
    public: dict[str, bytes | None] = {MASTER_RECIPIENT: f"{keyring.master}\n".encode(), **issued}
    if found.words:
        public[workspace.peers_file.name] = found.text.encode()
    if not (workspace.keys_dir / ".gitignore").exists():  # in whatever git work tree keys/ is
        public[".gitignore"] = IGNORED.encode()
    written = transaction.apply(cluster, Change(created, public=public), keys=planned.keys, keyring=keyring)
    updated = tuple(name for name in written if name not in (*planned.created, workspace.peers_file.name))
    return Outcome(planned.created, len(planned.kept), found.words, updated)


def _new_master(workspace: Workspace) -> str:
    text, recipient = age.new_identity()
    transaction.write_identities(workspace, text)
    return recipient


def _decrypt(workspace: Workspace, planned: Plan) -> Mapping[Secret, bytes]:
    rows = dict.fromkeys((*planned.certify, *planned.publish))
    master = age.read_master(workspace) if rows else None
    return {row: transaction.opened(planned.keys, master, row) for row in rows} if master else {}
