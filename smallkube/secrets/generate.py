"""Generating the secrets that are missing: planned first, then written as one transaction.

The master identity is written before all else. A public half that is missing is derived again from its secret.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from smallkube.core.errors import ErrorGroup, UsageError, listed
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, certificates, kinds, peers, policy, transaction
from smallkube.secrets.age import MASTER_RECIPIENT
from smallkube.secrets.host_keys import HostKey, load_hosts
from smallkube.secrets.keyring import Keyring, find_keyring, of_master, require_host_keys
from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients import Finding, State
from smallkube.secrets.transaction import Change, Keys


@dataclass(frozen=True)
class Plan:
    """What is missing (secrets; public halves of secrets), how many exist, and what is encrypted to a wrong set."""

    create: tuple[Secret, ...]
    derive: tuple[Secret, ...]
    kept: int
    rekey: tuple[Finding, ...]
    hosts: Mapping[str, HostKey]
    keyring: Keyring | None
    keys: Keys

    @property
    def new_master(self) -> bool:
        return self.keyring is None

    @cached_property
    def created(self) -> tuple[str, ...]:
        """Names of the files that do not exist yet: encrypted ones and certificates."""
        return (*(row.file for row in self.create), *policy.certificate_files((*self.create, *self.derive)))


@dataclass(frozen=True)
class Outcome:
    """What changed in peers.json, in words, and which other files that existed were written."""

    peers: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


def plan(cluster: Cluster, nodes: Collection[str] = ()) -> Plan:
    """What a run would do; ``nodes`` (names) restricts it to what belongs to these.

    Raises UsageError when a host key or the master is missing, and ErrorGroup when files contradict each other.
    """
    keys = transaction.read_keys(cluster.workspace)
    master = age.read_master(cluster.workspace)
    hosts = load_hosts(cluster)
    keyring = find_keyring(cluster, master, hosts)
    if keyring is None and keys.files:
        raise UsageError(
            f"{len(keys.files)} secrets found, but neither master_key nor {MASTER_RECIPIENT}",
            where=cluster.workspace.relative(cluster.workspace.keys_dir),
            hint=f"restore {MASTER_RECIPIENT} from git",
        )
    table = policy.expected(cluster.inventory, keys.files)
    wanted = [row for row in table if not nodes or row.node in nodes]
    require_host_keys(cluster.workspace, keyring or of_master("", hosts), wanted)
    present = tuple(row for row in wanted if row.file in keys.files)
    create = tuple(row for row in wanted if row.file not in keys.files)
    public = _public_halves(cluster, wanted, keys)
    contradictions = [
        UsageError(f"missing, but {half}", where=f"keys/{row.file}", hint=f"restore it from git, or {instead}")
        for row, (half, instead) in public.items()
        if row.file not in keys.files
    ]
    if contradictions:  # A public half without its private one is never replaced silently: others may rely on it.
        raise ErrorGroup(contradictions)
    published = (row for row in present if row.in_use and (row.certificate or row.publishes_key))
    derive = tuple(row for row in published if row not in public)
    if derive and master is None:
        raise UsageError(
            f"not found, and required to derive the public half of {listed(row.file for row in derive)}",
            where=cluster.workspace.relative(cluster.workspace.master_key),
            hint="restore it from your offline copy, or (if no node uses these yet) remove the files",
        )
    findings = transaction.examined(cluster, keys, table, keyring) if keyring else ()
    rekey = tuple(finding for finding in findings if finding.state is State.WRONG_SET)
    return Plan(create, derive, len(present), rekey, hosts, keyring, keys)


def _public_halves(cluster: Cluster, rows: Iterable[Secret], keys: Keys) -> dict[Secret, tuple[str, str]]:
    """Those of ``rows`` whose public half is there: what it is, and how to have both replaced."""
    published = peers.public_keys(peers.read(cluster.workspace))
    found = {}
    for row in rows:
        if row.certificate and (file := row.certificate.file) in keys.certificates:
            found[row] = f"there is {file}", f"remove keys/{file} to have both generated"
        if row.publishes_key and cluster.inventory.node(row.node).index in published:
            command = f"`inv keys.rotate-wireguard --node {row.node}`"
            found[row] = "peers.json has its public key", f"replace both: {command}"
    return found


def act(cluster: Cluster, planned: Plan) -> Outcome:
    """Carry out ``planned``; call it under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; the next command that takes the lock then completes it.
    """
    workspace, keyring = cluster.workspace, planned.keyring
    if keyring is None:
        identity, recipient = age.new_identity()
        transaction.write_identities(workspace, identity)
        keyring = of_master(recipient, planned.hosts)
    resources = cluster.inventory.cluster.secrets.encrypted_resources
    created = {row: kinds.make(row.kind, resources) for row in planned.create}
    plaintexts = dict(created)
    if planned.derive:
        master = age.require_master(workspace, "to derive public keys")
        plaintexts |= {row: transaction.opened(planned.keys, master, row) for row in planned.derive}
    issued = certificates.issue_all(plaintexts)
    found = peers.published(cluster, plaintexts)
    public = {**keyring.public, **issued, **found.files}
    if not (workspace.keys_dir / ".gitignore").exists():  # in whatever git work tree keys/ is
        public[".gitignore"] = transaction.IGNORED.encode()
    written = transaction.apply(cluster, Change(created, public=public), keys=planned.keys, keyring=keyring)
    known = {*planned.created, peers.FILE}
    updated = tuple(name for name in written if name not in known)
    return Outcome(found.words, updated)
