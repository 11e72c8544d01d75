"""Re-encrypting what is encrypted to a wrong set of recipients; nothing else is touched.

Everything is decrypted before anything is written, each new file is verified by decrypting it before it replaces the
previous one, and what can't be decrypted is reported and kept.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.cluster import Cluster
from smallkube.secrets import age, policy, transaction
from smallkube.secrets.host_keys import load_hosts
from smallkube.secrets.policy import Secret
from smallkube.secrets.recipients import Finding, Keyring, State, require_host_keys
from smallkube.secrets.transaction import Change, Keys


@dataclass(frozen=True)
class Plan:
    """``change``: what is to be re-encrypted → plaintext; ``failed``: file → why it can't be; ``good``: the rest."""

    change: Mapping[Finding, bytes] = field(repr=False)
    failed: Mapping[str, str]
    good: tuple[Secret, ...]
    new_master: bool
    master: age.Master = field(repr=False)
    keyring: Keyring
    keys: Keys = field(repr=False)


def plan(cluster: Cluster, nodes: Collection[str] = ()) -> Plan:
    """What has to be re-encrypted; the first identity in keys/master_key is the master from then on.

    Raises UsageError when the master or a host key is missing, or the master is not the one in force.
    """
    master = age.require_master(cluster.workspace, "to re-encrypt")
    in_force = age.read_recipient(cluster.workspace, master)
    if nodes and in_force != master.recipient:
        raise UsageError("a new master concerns the secrets of all nodes", hint="run it without --node")
    keys = transaction.read_keys(cluster.workspace)
    keyring, first = Keyring(master.recipient, load_hosts(cluster)), master.only(master.recipient)
    table = policy.expected(cluster.inventory, keys.files)
    wanted = tuple(row for row in table if row.file in keys.files and (not nodes or row.node in nodes))
    require_host_keys(cluster.workspace, keyring, wanted)
    findings = transaction.examined(cluster, keys, wanted, keyring, first)
    failed = {each.secret.file: each.faults[0] for each in findings if each.state is State.DAMAGED}
    change = {}
    for finding in (each for each in findings if each.state is State.WRONG_SET):
        try:
            change[finding] = finding.plaintext or transaction.opened(keys, master, finding.secret)
        except SmallkubeError as error:
            failed[finding.secret.file] = error.message
    good = tuple(finding.secret for finding in findings if finding.state is State.GOOD)
    return Plan(change, failed, good, in_force != master.recipient, first, keyring, keys)


def plan_all(cluster: Cluster) -> Plan:
    """``plan``, where nothing must be left behind: raises SmallkubeError also when a file can't be opened."""
    planned = plan(cluster)
    for file, why in planned.failed.items():
        raise SmallkubeError(f"{why}; nothing was changed", where=f"keys/{file}", hint="restore it from git")
    return planned


def act(cluster: Cluster, planned: Plan) -> tuple[str, ...]:
    """Carry out ``planned``, under the lock on keys/ that was held while planning; returns what else was updated.

    The records of files that are right are renewed too. Raises SmallkubeError when a file can't be written; the next
    command that takes the lock then completes it.
    """
    public = {age.MASTER_RECIPIENT: f"{planned.keyring.master}\n".encode()}
    new = {finding.secret: plaintext for finding, plaintext in planned.change.items()}
    change = Change(new, public=public, verified=planned.good)
    written = transaction.apply(cluster, change, keys=planned.keys, keyring=planned.keyring, master=planned.master)
    return tuple(name for name in written if name not in {row.file for row in new})
