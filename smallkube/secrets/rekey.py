"""Re-encrypting what is encrypted to a wrong set of recipients; nothing else is touched.

Everything is decrypted before anything is written, each new file is proven to open before it takes the old one's
place, and what can't be decrypted is reported and left as it is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.files import write_files
from smallkube.core.workspace import write_file
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, agenix, policy, recipients_file
from smallkube.secrets.header import parse_header
from smallkube.secrets.keyring import MASTER_RECIPIENT, Keyring, demand, load_hosts, read_recipient, require_master
from smallkube.secrets.policy import Secret
from smallkube.secrets.proof import Finding, State, examine_all
from smallkube.secrets.store import Keys, read_keys


@dataclass(frozen=True)
class Plan:
    """``change``: what is re-encrypted, and its plaintext; ``failed``: file → why it can't be; the rest is right."""

    change: tuple[Finding, ...]
    plaintexts: Mapping[str, bytes]
    failed: Mapping[str, str]
    good: tuple[Secret, ...]
    new_master: bool
    keyring: Keyring
    keys: Keys

    def __repr__(self) -> str:
        return f"Plan(change={self.change}, failed={dict(self.failed)}, new_master={self.new_master})"


def plan(cluster: Cluster, nodes: Collection[str] = ()) -> Plan:
    """What has to be re-encrypted; the first identity in keys/master_key is the master from then on.

    Raises UsageError when the master or a host key is missing, or the master is not the one in force.
    """
    master = require_master(cluster.workspace, "to re-encrypt")
    in_force = read_recipient(cluster.workspace, master)
    if nodes and in_force != master.recipient:
        raise UsageError("a new master concerns the secrets of all nodes", hint="run it without --node")
    keys = read_keys(cluster.workspace)
    keyring = Keyring(master.recipient, load_hosts(cluster))
    table = policy.expected(cluster.inventory, keys.files)
    wanted = tuple(row for row in table if row.file in keys.files and (not nodes or row.node in nodes))
    demand(cluster.workspace, keyring, wanted)
    findings = examine_all(wanted, keys.files, keyring, keys.records, master.only(master.recipient))
    change, plaintexts, failed = [], {}, {}
    for finding in findings:
        name = finding.secret.file
        if finding.state is State.DAMAGED:
            failed[name] = finding.faults[0]
        if finding.state is not State.WRONG_SET:
            continue
        try:
            plaintexts[name] = age.decrypt(keys.files[name], master, name)
            change.append(finding)
        except SmallkubeError as error:
            failed[name] = error.message
    good = tuple(finding.secret for finding in findings if finding.state is State.GOOD)
    return Plan(tuple(change), plaintexts, failed, good, in_force != master.recipient, keyring, keys)


def act(cluster: Cluster, planned: Plan) -> tuple[str, ...]:
    """Carry out ``planned``, under the lock on keys/ that was held while planning; returns what else was updated.

    Raises SmallkubeError when a file can't be written; the old ones are then still in place.
    """
    keyring = planned.keyring
    master = require_master(cluster.workspace, "to re-encrypt").only(keyring.master)
    encrypted = {}
    for finding in planned.change:
        plaintext = planned.plaintexts[finding.secret.file]
        encrypted[finding.secret.file] = _encrypt(finding.secret, plaintext, keyring, master)
    recipient = cluster.workspace.keys_dir / MASTER_RECIPIENT
    updated = [recipient.name] if write_file(recipient, keyring.master + "\n") else []
    write_files(cluster.workspace.keys_dir, encrypted)
    derived = {
        cluster.workspace.recipients_file: recipients_file.render(_records(planned, encrypted)),
        cluster.workspace.secrets_nix: agenix.render(policy.expected(cluster.inventory, planned.keys.files), keyring),
    }
    return (*updated, *(path.name for path, text in derived.items() if write_file(path, text)))


def _encrypt(secret: Secret, plaintext: bytes, keyring: Keyring, master: age.Master) -> bytes:
    """Encrypt and prove it: opened by the master again, and for exactly the hosts of the policy."""
    data = age.encrypt(plaintext, keyring.recipients(secret))
    tags = sorted(parse_header(data, secret.file).ssh_tags)
    if age.decrypt(data, master, secret.file) != plaintext or tags != sorted(
        keyring.hosts[node].tag for node in secret.readers
    ):
        raise SmallkubeError("its new encryption failed verification; the old file is kept", where=secret.file)
    return data


def _records(planned: Plan, encrypted: Mapping[str, bytes]) -> dict[str, recipients_file.Record]:
    """Also heals the records of right files, which decrypting them has just proven."""
    keys, keyring = planned.keys, planned.keyring
    rows = {name: record for name, record in keys.records.items() if name in keys.files}
    for secret in planned.good:
        rows[secret.file] = recipients_file.record(keys.files[secret.file], keyring.recipients(secret))
    for finding in planned.change:
        name = finding.secret.file
        rows[name] = recipients_file.record(encrypted[name], keyring.recipients(finding.secret))
    return rows
