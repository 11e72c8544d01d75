"""New WireGuard keys in place of those there are, and certificates issued anew over the keys there are.

WireGuard keys need only the master's *public* key: nothing is decrypted. New encrypted keys, peers.json and
recipients.json change as one (see ``journal``). A certificate stands for itself: each is replaced atomically.
"""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from smallkube.errors import SmallkubeError, UsageError
from smallkube.inventory import Inventory
from smallkube.secrets import age, certificates, content, journal, peers, policy, records
from smallkube.secrets.batch import write_files
from smallkube.secrets.keyring import Keyring, demand, demand_master, load_hosts, read_master, read_recipient
from smallkube.secrets.policy import Certificate, Kind, Secret
from smallkube.secrets.proof import State, examine
from smallkube.secrets.store import Keys, read_keys
from smallkube.workspace import Workspace


@dataclass(frozen=True)
class WireguardPlan:
    """The WireGuard keys that get a successor, and what is there now."""

    replace: tuple[Secret, ...]
    keyring: Keyring
    keys: Keys
    peers: peers.Peers


@dataclass(frozen=True)
class WireguardOutcome:
    """The files written, and in words how peers.json has changed."""

    written: tuple[str, ...]
    peers: tuple[str, ...]


def plan_wireguard(workspace: Workspace, inventory: Inventory, nodes: Collection[str] = ()) -> WireguardPlan:
    """Whose key would be replaced: that of ``nodes`` (names), of all when there are none.

    Raises UsageError when the master's public key or a reader's host key is missing, or peers.json is damaged.
    """
    recipient = read_recipient(workspace, read_master(workspace))
    if recipient is None:
        where = workspace.relative(workspace.keys_dir)
        raise UsageError("no secrets yet", where=where, hint="run `inv keys.generate`")
    keyring = Keyring(recipient, load_hosts(workspace, inventory))
    table = policy.secrets_of(inventory)
    wanted = tuple(row for row in table if row.kind is Kind.WIREGUARD and (not nodes or row.node in nodes))
    demand(workspace, keyring, wanted)
    return WireguardPlan(wanted, keyring, read_keys(workspace), peers.read(workspace))


def act_wireguard(workspace: Workspace, inventory: Inventory, planned: WireguardPlan) -> WireguardOutcome:
    """Carry out ``planned``, under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written; either nothing has changed then, or the next command that
    takes the lock completes it.
    """
    keys, keyring = planned.keys, planned.keyring
    rows = {name: record for name, record in keys.records.items() if name in keys.files}
    files, public = {}, {}
    for row in planned.replace:
        private = content.make(row.kind, ())
        public[inventory.node(row.node).index] = content.wireguard_public(private, row.file)
        files[row.file] = age.encrypt(private, keyring.recipients(row))
        rows[row.file] = records.record(files[row.file], keyring.recipients(row))
        found = examine(row, files[row.file], keyring, rows[row.file], None)
        if found.state is not State.GOOD:
            raise SmallkubeError("its encryption failed verification; nothing was changed", where=row.file)
    change = peers.updated(planned.peers, inventory, public)
    files[workspace.peers_file.name] = change.text.encode()
    files[workspace.recipients_file.name] = records.render(rows).encode()
    journal.commit(workspace, journal.Change(tuple(row.node for row in planned.replace), files))
    return WireguardOutcome(tuple(files), change.words)


@dataclass(frozen=True)
class CertificatePlan:
    """``renew``: certificate → why; ``failed``: file of a key → why there can be no certificate over it."""

    renew: Mapping[Certificate, tuple[str, ...]]
    failed: Mapping[str, str]
    kept: int
    plaintexts: Mapping[Certificate, bytes]
    now: datetime.datetime

    @property
    def faults(self) -> list[SmallkubeError]:
        """Why not every certificate could be looked at, and what to do."""
        hint = "restore it from git"
        return [SmallkubeError(why, where=f"keys/{file}", hint=hint) for file, why in self.failed.items()]

    def __repr__(self) -> str:
        return f"CertificatePlan(renew={dict(self.renew)}, failed={dict(self.failed)}, kept={self.kept})"


def plan_certificates(
    workspace: Workspace,
    inventory: Inventory,
    nodes: Collection[str] = (),
    *,
    everything: bool = False,
    now: datetime.datetime | None = None,
) -> CertificatePlan:
    """Which certificates are issued anew: those with a fault, or ``everything``; of ``nodes`` (names) when given.

    Raises UsageError when the master identity is not here, or is not the one in force.
    """
    master = demand_master(workspace, "to sign with the private keys")
    recipient = read_recipient(workspace, master) or master.recipient
    now = now or datetime.datetime.now(datetime.UTC)
    keys = read_keys(workspace)
    renew, failed, plaintexts, kept = {}, {}, {}, 0
    for row in policy.secrets_of(inventory):
        if row.certificate is None or (nodes and row.node not in nodes):
            continue
        try:
            plaintext = _private_key(row, keys, master.only(recipient))
        except SmallkubeError as error:
            failed[row.file] = error.message
            continue
        pem = keys.certificates.get(row.certificate.file)
        why = certificates.complaints(pem, row.certificate, row.file, plaintext, now)
        if why or everything:
            renew[row.certificate] = tuple(why) or ("asked for",)
            plaintexts[row.certificate] = plaintext
        else:
            kept += 1
    return CertificatePlan(renew, failed, kept, plaintexts, now)


def _private_key(row: Secret, keys: Keys, master: age.Master) -> bytes:
    data = keys.files.get(row.file)
    if data is None:
        raise SmallkubeError("missing", where=row.file)
    plaintext = age.decrypt(data, master, row.file)
    content.validate(row.kind, plaintext, row.file)
    return plaintext


def act_certificates(workspace: Workspace, planned: CertificatePlan) -> None:
    """Carry out ``planned``, under the lock on keys/ that was held while planning.

    Raises SmallkubeError when a file can't be written.
    """
    issued = {
        wanted.file: certificates.issue(wanted, plaintext, planned.now)
        for wanted, plaintext in planned.plaintexts.items()
    }
    write_files(workspace.keys_dir, issued)
