"""Making whatever secret is missing: planned first, then written in an order that survives a crash at any point.

The order: master identity; records of what is about to be written; encrypted files; what is derived from them
(certificates, public keys in peers.json); rules. A derived file thus never exists without the secret it belongs to,
and one that is missing is derived again from the decrypted secret.
"""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from smallkube.core.errors import ErrorGroup, UsageError
from smallkube.core.files import write_files
from smallkube.core.workspace import Workspace, write_file
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, agenix, certificates, kinds, peers, policy, recipients_file
from smallkube.secrets.keyring import MASTER_RECIPIENT, Keyring, demand, load_hosts, read_master, read_recipient
from smallkube.secrets.policy import Kind, Secret
from smallkube.secrets.proof import Finding, State, examine_all
from smallkube.secrets.store import Keys, read_keys

IGNORED = "# The age identity that reads every secret, and what a killed write leaves.\n/master_key\n/.tmp-*\n"


@dataclass(frozen=True)
class Plan:
    """What is missing (secrets, certificates, public keys), what is there, and what is encrypted to a wrong set."""

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


@dataclass(frozen=True)
class Outcome:
    """File names created, how many were kept, what changed in peers.json, what else was written."""

    created: tuple[str, ...]
    kept: int
    peers: tuple[str, ...]
    updated: tuple[str, ...]


def plan(cluster: Cluster, nodes: Collection[str] = ()) -> Plan:
    """What a run would do; ``nodes`` (names) restricts it to what belongs to these.

    Raises UsageError when a host key or the master is missing, and ManyErrors when files contradict each other.
    """
    keys = read_keys(cluster.workspace)
    master = read_master(cluster.workspace)
    recipient = read_recipient(cluster.workspace, master)
    if recipient is None and keys.files:
        raise UsageError(
            f"{len(keys.files)} secrets are here, but neither master_key nor {MASTER_RECIPIENT}",
            where=cluster.workspace.relative(cluster.workspace.keys_dir),
            hint=f"restore {MASTER_RECIPIENT} from git",
        )
    keyring = Keyring(recipient or "", load_hosts(cluster))
    table = policy.expected(cluster.inventory, keys.files)
    wanted = [row for row in table if not nodes or row.node in nodes]
    demand(cluster.workspace, keyring, wanted)
    present = tuple(row for row in wanted if row.file in keys.files)
    create = tuple(row for row in wanted if row.file not in keys.files)
    published = peers.public_keys(peers.read(cluster.workspace))
    _refuse_contradictions(cluster.workspace, create, keys, published)
    used = (row for row in present if row.in_use)
    certify = tuple(row for row in used if row.certificate and row.certificate.file not in keys.certificates)
    publish = tuple(
        row for row in present if _publishes(row) and cluster.inventory.node(row.node).index not in published
    )
    if (certify or publish) and master is None:
        raise _needs_master(cluster.workspace, (*certify, *publish))
    known = tuple(row for row in table if row.file in keys.files and keyring.knows(row))
    findings = examine_all(known, keys.files, keyring, keys.records, None) if recipient else ()
    rekey = tuple(finding for finding in findings if finding.state is State.WRONG_SET)
    return Plan(create, present, certify, publish, rekey, keyring if recipient else None, keys)


def _publishes(row: Secret) -> bool:
    return row.kind is Kind.WIREGUARD and not row.version


def _refuse_contradictions(
    workspace: Workspace, create: tuple[Secret, ...], keys: Keys, published: Mapping[int, str]
) -> None:
    """A public half without its private one is never replaced silently: others may rely on it."""
    problems = []
    for row in create:
        where = workspace.relative(workspace.keys_dir / row.file)
        if row.certificate and row.certificate.file in keys.certificates:
            hint = f"restore it from git, or remove keys/{row.certificate.file} to have both made anew"
            problems.append(UsageError(f"is missing, but {row.certificate.file} is here", where=where, hint=hint))
        index = int(row.node.removeprefix("node"))
        if _publishes(row) and index in published:
            hint = f"restore it from git, or make both anew: `inv keys.rotate-wireguard --node {row.node}`"
            problems.append(UsageError("is missing, but peers.json has its public key", where=where, hint=hint))
    if problems:
        raise ErrorGroup(problems)


def _needs_master(workspace: Workspace, rows: tuple[Secret, ...]) -> UsageError:
    return UsageError(
        f"is not here, and is needed to derive the public half of {', '.join(row.file for row in rows[:5])}",
        where=workspace.relative(workspace.master_key),
        hint="bring it, or (if no node uses these yet) remove the files to have them made anew",
    )


def act(cluster: Cluster, planned: Plan) -> Outcome:
    """Carry out ``planned``; call it under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; the same run again then completes it.
    """
    updated = _write_ignore(cluster.workspace)
    keyring = planned.keyring or Keyring(_new_master(cluster.workspace), load_hosts(cluster))
    updated += _write(cluster.workspace, MASTER_RECIPIENT, keyring.master + "\n")
    resources = cluster.inventory.cluster.secrets.encrypted_resources
    plaintexts = {row: kinds.make(row.kind, resources) for row in planned.create}
    encrypted = {row: age.encrypt(text, keyring.recipients(row)) for row, text in plaintexts.items()}
    updated += _write_records(cluster.workspace, planned, encrypted, keyring)
    write_files(cluster.workspace.keys_dir, {row.file: data for row, data in encrypted.items()}, replace=False)
    plaintexts |= _decrypt(cluster.workspace, planned)
    issued = _certificates(plaintexts)
    write_files(cluster.workspace.keys_dir, issued, replace=False)
    public = {
        cluster.inventory.node(row.node).index: kinds.wireguard_public(text, row.file)
        for row, text in plaintexts.items()
        if _publishes(row)
    }
    change = peers.updated(peers.read(cluster.workspace), cluster.inventory, public)
    if change.words:
        write_file(cluster.workspace.peers_file, change.text)
    present = {*planned.keys.files, *(row.file for row in planned.create)}
    updated += _write(
        cluster.workspace, "secrets.nix", agenix.render(policy.expected(cluster.inventory, present), keyring)
    )
    created = (*(row.file for row in planned.create), *issued)
    return Outcome(created, len(planned.kept), change.words, tuple(updated))


def _new_master(workspace: Workspace) -> str:
    text, recipient = age.new_identity()
    write_files(workspace.keys_dir, {workspace.master_key.name: text.encode()}, 0o600, replace=False)
    return recipient


def _write_ignore(workspace: Workspace) -> list[str]:
    """Whatever git work tree keys/ lies in: the identity can't be added to it by accident."""
    path = workspace.keys_dir / ".gitignore"
    if path.exists():
        return []
    write_file(path, IGNORED)
    return [path.name]


def _write(workspace: Workspace, name: str, text: str) -> list[str]:
    return [name] if write_file(workspace.keys_dir / name, text) else []


def _write_records(
    workspace: Workspace, planned: Plan, encrypted: Mapping[Secret, bytes], keyring: Keyring
) -> list[str]:
    new = {row.file: recipients_file.record(data, keyring.recipients(row)) for row, data in encrypted.items()}
    kept = {name: record for name, record in planned.keys.records.items() if name in planned.keys.files}
    return _write(workspace, workspace.recipients_file.name, recipients_file.render({**kept, **new}))


def _decrypt(workspace: Workspace, planned: Plan) -> dict[Secret, bytes]:
    rows = dict.fromkeys((*planned.certify, *planned.publish))
    master = read_master(workspace) if rows else None
    if master is None:
        return {}
    return {row: age.decrypt(planned.keys.files[row.file], master, row.file) for row in rows}


def _certificates(plaintexts: Mapping[Secret, bytes]) -> dict[str, bytes]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        row.certificate.file: certificates.issue(row.certificate, text, now)
        for row, text in plaintexts.items()
        if row.certificate
    }
